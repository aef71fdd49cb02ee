"""What the parity tests know of an architecture: its classes in transformers, its random weights, its cases.

families/MODEL_TYPE.py describes one as FAMILY, under the `model_type` of its config.json; family_parity.py runs its cases.
"""

import dataclasses
import importlib
import json
import pathlib

FAMILIES = sorted(p.stem for p in (pathlib.Path(__file__).parent / "families").glob("*.py"))


@dataclasses.dataclass
class Case:
    name: str
    config: dict  # of the family's config class
    seed: int
    batch: int
    seq: int
    ignored: float | None = None  # share of labels that are −100; None: no labels are given
    idle_expert: int | None = None  # this expert gets no token
    dtype: str = "float32"  # of the saved file
    shard: str = "1GB"
    scale: float = 0.1  # standard deviation of the matrices; norm weights are 1 ± 0.2


class Family:
    """Overridden where an architecture differs. `model_class` and `config_class` are names in transformers."""

    model_class = config_class = ""
    cases: list[Case] = []
    plain = None  # the module that writes it down a second time, for `python reference.py`
    router = "gate"  # of a layer's mlp: the module that returns (logits, weights, ids)
    fused_experts = False  # the file holds one tensor for all experts of a layer, not one an expert

    def fill(self, case, name, noise):
        """The random value of the parameter or buffer `name`; noise has its shape, mean 0 and deviation 1."""
        return 1 + 0.2 * noise if "norm" in name else case.scale * noise

    def make_idle(self, model, expert):
        """Every hidden state leans one way in dim 0, this expert's router row the other."""
        model.model.embed_tokens.weight[:, 0] = 1.0
        for layer in model.model.layers:
            router = getattr(layer.mlp, self.router)
            router.weight[expert] = 0
            router.weight[expert, 0] = -9.0

    def finish(self, folder, case):
        """Changes a folder that transformers saved into what is published, where that differs."""

    def margin(self, router, logits, ids):
        """How clear the choice was: distance between the last chosen and the first one left out; inf if none is."""
        top = logits.topk(min(ids.shape[1] + 1, logits.shape[1]), -1).values
        return (top[:, -2] - top[:, -1]).min().item() if top.shape[1] > ids.shape[1] else float("inf")

    def random_case(self, r, name):
        """A case nobody thought of, from the random.Random r: for a search by hand, not for CI."""
        raise NotImplementedError(f"{self.model_class}: no random cases")


def family(model_type):
    return importlib.import_module(f"families.{model_type}").FAMILY


def family_of(folder):
    with open(f"{folder}/config.json") as f:
        return family(json.load(f)["model_type"])
