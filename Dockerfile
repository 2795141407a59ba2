# One image for every process of Keylane: `docker run keylane ingest ...`, `... dispatch NAME ...`.
FROM python:3.13-slim AS build
WORKDIR /build

# Each wheel is checked against its hash here; from then on nothing is fetched.
COPY requirements-image.txt ./
RUN pip wheel --no-cache-dir --require-hashes --wheel-dir /wheels -r requirements-image.txt
RUN pip install --no-cache-dir --no-index --find-links /wheels hatchling

COPY pyproject.toml README.md LICENSE ./
COPY keylane keylane
COPY ingest ingest
COPY dispatch dispatch
COPY operate operate
RUN pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /wheels .

# Takes what running needs; what building needed stays behind.
RUN python -m venv /opt/keylane
RUN /opt/keylane/bin/pip install --no-cache-dir --no-index --find-links /wheels keylane

FROM python:3.13-slim
# Where `keylane.toml` is looked for and where `file:` destinations with a short path are written.
# All else may be read-only, with a tmpfs on /tmp.
RUN install --directory --owner 10001 --group 10001 /data
COPY --from=build /opt/keylane /opt/keylane
ENV PATH="/opt/keylane/bin:${PATH}" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /data
USER 10001:10001
EXPOSE 8090
# No HEALTHCHECK here: the processes differ. `ingest` answers /healthz and /readyz on its port, a
# `dispatch` worker on its --admin-port; docker-compose.yml shows both.
ENTRYPOINT ["keylane"]
CMD ["--help"]
