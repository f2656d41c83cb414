"""Private servers, a breakable TCP proxy and waiting, for the tests."""
