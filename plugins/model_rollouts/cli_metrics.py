"""`rollouts metrics`: the rollouts for Prometheus."""

from typing import Annotated

import typer

from model_rollouts.cli_shared import told, wiring


def metrics(
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="Serve them at http://HOST:PORT/metrics; printed otherwise.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than this machine's need MODEL_ROLLOUTS_METRICS_TOKEN.")
    ] = "127.0.0.1",
) -> None:
    """Print the rollouts' metrics for Prometheus, or serve them. A Grafana dashboard: reports/grafana/rollouts.json."""
    with told():
        from model_rollouts.adapters.rollout_metrics import CONTENT_TYPE, RolloutMetrics

        settings = wiring().settings
        source = RolloutMetrics(settings.store_url)
        if port is None:
            typer.echo(source.render().decode(), nl=False)
            return
        from model_rollouts.metrics_server import make_server

        token = settings.metrics_token.get_secret_value() if settings.metrics_token else ""
        with make_server(host, port, source.render, CONTENT_TYPE, token) as server:
            typer.echo(f"metrics of the rollouts at http://{host}:{server.server_address[1]}/metrics", err=True)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                typer.echo("ended", err=True)
