# Grades a run: the folder that `shaped-trl sample` has written. docs/guides/generated-code.md
# has the command lines for Docker, Podman and Apptainer, and says what the sandbox needs there.
FROM python:3.11.13-slim-bookworm@sha256:86adf8dbadc3d6e82ee5dd2c74bec2e1c2467cdad47886280501df722372d2e1

WORKDIR /opt/shaped-trl
COPY constraints.txt requirements-grade.txt ./
ENV PIP_CONSTRAINT=/opt/shaped-trl/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
RUN pip install --no-cache-dir -r requirements-grade.txt
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY shaped_trl shaped_trl
COPY eval_suite eval_suite
COPY recipes recipes
# the file that names the version
COPY kernels kernels
RUN pip install --no-cache-dir --no-deps . && useradd --create-home --uid 1000 grader

USER 1000
WORKDIR /graded
ENTRYPOINT ["shaped-trl", "grade"]
CMD ["--help"]
