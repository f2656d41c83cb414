# One image for every process: `docker run IMAGE api`, `worker`, `flower`, `migrate`, as docker-compose.yml starts them.

FROM python:3.13-slim AS build

# Without pip: that of the image installs from outside, and nothing of it goes along.
RUN python -m venv --without-pip /opt/venv
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_PYTHON=/opt/venv/bin/python PIP_ROOT_USER_ACTION=ignore

# The packages alone first, so that a change of the code does not install them again. All come as wheels: no compiler.
COPY requirements/run.txt /src/requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --require-hashes --only-binary=:all: --requirement /src/requirements/run.txt

COPY . /src/
# setuptools builds the project and has nothing to do afterwards. The check fails where requirements/run.txt lacks what
# pyproject.toml asks for.
RUN pip install --no-index --no-deps --no-build-isolation /src && pip check && pip uninstall --yes setuptools


FROM python:3.13-slim

# Nothing is installed here any more, neither by us nor by an intruder. The id is fixed, for mounted files' owners.
RUN find / -xdev -type d \( -name pip -o -name 'pip-*.dist-info' -o -name ensurepip \) -prune -exec rm -rf {} + \
    && rm -f /usr/local/bin/pip* \
    && groupadd --gid 10001 tasks \
    && useradd --uid 10001 --gid tasks --no-create-home --home-dir /app --shell /usr/sbin/nologin tasks

COPY --from=build /opt/venv /opt/venv
COPY deploy/healthy.py /app/

# The modules are compiled already, and the file system may be read-only.
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 API_HOST=0.0.0.0
WORKDIR /app
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s CMD ["python", "healthy.py", "api"]
ENTRYPOINT ["tasks-api"]
CMD ["api"]
