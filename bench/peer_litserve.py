"""The model behind LitServe, run by bench/servers.py in an environment of its own: `peer_litserve.py MODEL PORT`."""

import pickle
import sys
from pathlib import Path

import litserve
import numpy as np


class Model(litserve.LitAPI):
    """Rows of a `dataframe_split` body, scored in batches."""

    def setup(self, device):
        """Load the model that bench/gateway.py wrote."""
        self.model = pickle.loads((Path(sys.argv[1]) / "bare.pkl").read_bytes())  # noqa: S301  # bench's own file

    def decode_request(self, request):
        """The row."""
        return request["dataframe_split"]["data"][0]

    def batch(self, inputs):
        """Rows as one array."""
        return np.array(inputs)

    def predict(self, x):
        """Answers of a batch."""
        return self.model.predict(x)

    def unbatch(self, output):
        """One answer a row."""
        return output.tolist()

    def encode_response(self, output):
        """As MLflow's server writes it."""
        return {"predictions": [output]}


if __name__ == "__main__":
    api = Model(max_batch_size=64, batch_timeout=0.005, api_path="/invocations")
    litserve.LitServer(api, accelerator="cpu", fast_queue=True).run(
        host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="warning"
    )
