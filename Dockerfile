# Images: master, worker (a job runs this one too) and smtp, the mail server of an example.
#
#     docker build --target worker --build-arg PYTHON_VERSION=3.13 --tag multihost-worker .
#
# Nothing here needs a newer builder than the one in Docker Engine 20.10.

ARG PYTHON_VERSION=3.11


# The package and what it depends on, in a virtual environment that is copied whole. It keeps its pip,
# so an image FROM multihost-worker adds what its tasks import by `USER root` and `RUN pip install`.
FROM python:${PYTHON_VERSION}-slim AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python -m venv /opt/multihost && python -m venv /opt/build
# Dependencies before source: these layers last until a pin changes.
COPY requirements/runtime.txt requirements/build.txt requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/multihost/bin/pip install --require-hashes --requirement requirements/runtime.txt \
    && /opt/build/bin/pip install --require-hashes --requirement requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY multihost/ multihost/
# Without isolation: hatchling is the pinned one, not whatever the index has today.
RUN /opt/build/bin/pip wheel --no-build-isolation --no-deps --wheel-dir dist . \
    && /opt/multihost/bin/pip install --no-deps --no-index dist/*.whl


# What all images share. The uid is fixed and the same everywhere, for they share volumes: a new volume
# takes the owner of the directory it is mounted on from whichever image comes first.
FROM python:${PYTHON_VERSION}-slim AS runtime
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp multihost \
    && install --directory --owner=multihost --group=multihost --mode=0750 /run/multihost \
    && install --directory --owner=multihost --group=multihost /data
# Unbuffered: a log line is out when it is written. No bytecode: the root file system is read-only.
ENV PATH=/opt/multihost/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
LABEL org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.vendor="the multihost authors" \
      org.opencontainers.image.version="0.1.0"


FROM runtime AS master
LABEL org.opencontainers.image.title="multihost master" \
      org.opencontainers.image.description="Serves tasks and shared queues to workers and clients on one port"
COPY --from=builder /opt/multihost /opt/multihost
COPY master/ master/
# For the journal; where no volume is mounted on it, MULTIHOST_JOURNAL stays `memory`.
RUN install --directory --owner=multihost --group=multihost --mode=0750 /var/lib/multihost
USER multihost
# A container is reached from outside or not at all; on a bare host the program listens on loopback.
ENV MULTIHOST_ADDRESS=0.0.0.0:5000
EXPOSE 5000
# Often, for workers and job wait for the first success; engines before 25 know no start interval.
HEALTHCHECK --interval=2s --timeout=5s --start-period=30s --retries=5 CMD ["python", "master/health.py"]
ENTRYPOINT ["python", "master/task_master.py"]


FROM runtime AS worker
LABEL org.opencontainers.image.title="multihost worker" \
      org.opencontainers.image.description="Leases tasks from a multihost master and runs them"
COPY --from=builder /opt/multihost /opt/multihost
COPY worker/ worker/
COPY examples/ examples/
USER multihost
# Seldom: nothing waits for it, and with many workers on a host the checks themselves would be a load.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "worker/health.py"]
ENTRYPOINT ["python", "worker/task_worker.py"]


FROM builder AS smtp-builder
COPY requirements/mail.txt requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/multihost/bin/pip install --require-hashes --requirement requirements/mail.txt


FROM runtime AS smtp
LABEL org.opencontainers.image.title="multihost example mail server" \
      org.opencontainers.image.description="Stores the mails it receives; for tests, not for the Internet"
RUN install --directory --owner=multihost --group=multihost /mail
COPY --from=smtp-builder /opt/multihost /opt/multihost
COPY examples/ examples/
USER multihost
EXPOSE 8025
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import smtplib; smtplib.SMTP('127.0.0.1', 8025, timeout=3).noop()"]
ENTRYPOINT ["python", "examples/smtp_server.py"]
