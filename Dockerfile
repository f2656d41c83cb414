# One image for every process: `docker run IMAGE api`, `worker`, `flower`, `migrate`, as docker-compose.yml starts them.

FROM python:3.13-slim AS build

# The environment has no pip. The image's pip installs into it, and is not copied with it.
RUN python -m venv --without-pip /opt/venv
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_PYTHON=/opt/venv/bin/python PIP_ROOT_USER_ACTION=ignore

# The packages come first, so that a change of the code does not install them again. All are wheels, so no compiler is
# needed.
COPY requirements/run.txt /src/requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --require-hashes --only-binary=:all: --requirement /src/requirements/run.txt

COPY . /src/
# setuptools is needed only to build the project. `pip check` fails if requirements/run.txt lacks a package that
# pyproject.toml requires.
RUN pip install --no-index --no-deps --no-build-isolation /src && pip check && pip uninstall --yes setuptools


FROM python:3.13-slim

# pip is removed, so that an intruder cannot install packages with it. The user's id is fixed, so that mounted files can
# have the right owner.
RUN find / -xdev -type d \( -name pip -o -name 'pip-*.dist-info' -o -name ensurepip \) -prune -exec rm -rf {} + \
    && rm -f /usr/local/bin/pip* \
    && groupadd --gid 10001 tasks \
    && useradd --uid 10001 --gid tasks --no-create-home --home-dir /app --shell /usr/sbin/nologin tasks

COPY --from=build /opt/venv /opt/venv
COPY deploy/healthy.py /app/

# Python must not write compiled modules: they exist already, and the file system may be read-only.
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 API_HOST=0.0.0.0
WORKDIR /app
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s CMD ["python", "healthy.py", "api"]
ENTRYPOINT ["tasks-api"]
CMD ["api"]
