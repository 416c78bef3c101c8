# Works with BuildKit, and with the classic builder of older engines. The base images are
# arguments, so that a mirror or a hardened one can take their place.
ARG RUST_IMAGE=rust:1.95-slim-bookworm
ARG RUNTIME_IMAGE=debian:bookworm-slim

FROM ${RUST_IMAGE} AS build
WORKDIR /build
ENV SQLX_OFFLINE=true CARGO_TERM_COLOR=never

# Dependencies in a layer of their own: they are compiled again only when the lock file changes.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src && touch src/lib.rs && echo 'fn main() {}' > src/main.rs \
    && cargo build --release --locked --bin popbridge

COPY migrations migrations
COPY .sqlx .sqlx
COPY src src
# Cargo goes by modification times, and the stub's are newer than the sources'.
RUN touch src/lib.rs src/main.rs && cargo build --release --locked --bin popbridge

FROM ${RUNTIME_IMAGE}
LABEL org.opencontainers.image.title="popbridge" \
    org.opencontainers.image.description="POP3 mailboxes as a JSON API and signed webhooks" \
    org.opencontainers.image.licenses="MIT OR Apache-2.0"

# The authorities that POP3 servers' and webhooks' certificates are checked against.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /build/target/release/popbridge /usr/local/bin/popbridge

# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
ENV POPBRIDGE_LISTEN=0.0.0.0:8080
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["popbridge", "health"]
ENTRYPOINT ["popbridge"]
CMD ["serve"]
