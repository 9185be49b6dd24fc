"""What is wrong with settings is told without the secrets among them."""

import pytest
from pydantic import ValidationError

from model_rollouts.gateway.settings import GatewaySettings
from model_rollouts.settings import Settings


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (Settings, {"MODEL_ROLLOUTS_ENGINE": "postgresql"}),
        (Settings, {"MODEL_ROLLOUTS_REGISTRY_POLL_SECONDS": "0"}),
        (GatewaySettings, {"MODEL_ROLLOUTS_UPSTREAM_TOKENS": '{"nobody": "hush-upstream"}'}),
        (GatewaySettings, {"MODEL_ROLLOUTS_HASH_UNITS": "true"}),
    ],
)
def test_a_wrong_setting_does_not_show_others(
    kind: type[Settings], wrong: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = {
        "MODEL_ROLLOUTS_WEBHOOK_SECRET": "hush-webhook-secret",
        "MODEL_ROLLOUTS_GATEWAY_TOKEN": "hush-token",
        "MODEL_ROLLOUTS_AIRFLOW_PASSWORD": "hush-password",
    }
    for name, value in (secrets | wrong).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as caught:
        kind()
    assert "hush" not in str(caught.value)
