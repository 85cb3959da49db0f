# One image for Prefect's server, the workers and the one-off jobs of docker-compose.yml: the same versions everywhere.
FROM python:3.11-slim-bookworm

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1 \
    DO_NOT_TRACK=1 \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    PREFECT_HOME=/home/gem3d/.prefect \
    GEM3D_CATALOG=/catalog \
    GEM3D_SCRATCH=/scratch \
    GEM3D_WEIGHTS=/weights

RUN useradd --create-home --uid 1000 gem3d \
    && install --directory --owner=gem3d --group=gem3d /catalog /scratch /data /weights \
        /home/gem3d/.prefect

WORKDIR /opt/gem3d

# the libraries are a layer of their own, so that a change of the sources does not install them again
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > /tmp/requirements.txt \
    && pip install --constraint constraints.txt --requirement /tmp/requirements.txt \
    && pip uninstall --yes argparse unittest2 traceback2 linecache2 \
    && rm /tmp/requirements.txt

COPY README.md LICENSE prefect.yaml ./
COPY configs ./configs
COPY data_catalog ./data_catalog
COPY flows ./flows
COPY gem3d_core ./gem3d_core
COPY tasks ./tasks
RUN pip install --no-deps --editable .

USER gem3d

CMD ["gem3d", "--help"]
