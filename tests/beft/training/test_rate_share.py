"""The share of the usual learning rate that suits a base."""

import copy

import pytest
import torch
from torch import nn

from beft.datasets.dataset import Dataset
from beft.settings import Settings
from beft.training.opening import check_base, open_session
from beft.training.rate_share import _TEXTS as TEXTS
from beft.training.rate_share import FURTHEST, SHARES, rate_share, relative_step
from beft.training.session import Session
from beft.training_settings import ProbeSettings, TargetSettings
from tests.conftest import build_tiny
from tests.support.small_data import reviews
from tests.support.tiny_bases import load, save_base


def same_with_small_values(model: nn.Module, factor: float) -> nn.Module:
    """The same function of the tokens, in which a step of a value bias counts so many times as much."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "attention.self.value" in name:
                parameter.div_(factor)
            if name.endswith("attention.output.dense.weight"):
                parameter.mul_(factor)
    return model


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return load(save_base(tmp_path_factory.mktemp("base"), build_tiny("bert")))


def test_the_step_against_biases_moved_by_hand(classifier):
    found = relative_step(classifier, 1e-3)
    twin = copy.deepcopy(classifier.model)

    def features() -> torch.Tensor:
        """The mean of the last hidden states of each sentence by itself."""
        with torch.no_grad():
            texts = [classifier.tokenizer(text, return_tensors="pt", truncation=True, max_length=32) for text in TEXTS]
            return torch.cat([twin.bert(**text).last_hidden_state.mean(1) for text in texts]).double()

    before = features()
    chance = torch.Generator().manual_seed(0)
    for layer in twin.bert.encoder.layer:
        bias = layer.attention.self.value.bias
        bias.data += torch.where(torch.randint(0, 2, bias.shape, generator=chance) == 1, 1e-3, -1e-3)
    moved = (features() - before).norm(dim=1).median() / (before - before.mean(0)).norm(dim=1).median()
    assert found == pytest.approx(float(moved), rel=1e-3)


def test_the_step_is_proportional_and_leaves_the_base(classifier):
    before = {name: value.clone() for name, value in classifier.model.state_dict().items()}
    assert relative_step(classifier, 2e-2) == pytest.approx(20 * relative_step(classifier, 1e-3), rel=0.02)
    assert all(torch.equal(before[name], value) for name, value in classifier.model.state_dict().items())


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5"])
def test_the_share_is_the_largest_that_moves_little(family, tmp_path):
    classifier = load(save_base(tmp_path, build_tiny(family)))
    share, step = rate_share(classifier), relative_step(classifier, 1e-2)
    assert share * step <= FURTHEST or share == SHARES[-1]
    assert all(larger * step > FURTHEST for larger in SHARES if larger > share)


def opened(folder, *, factor: float, own=None, **sections) -> Session:
    base = save_base(folder / "base", same_with_small_values(build_tiny("bert"), factor))
    texts, labels = zip(*reviews(), strict=True)
    data = Dataset.from_rows(texts, labels, test_rows=40, gate_rows=40)
    settings = {
        "base": {"source": str(base), "threads": 1, "precision": "fp32", "device": "cpu"},
        "datasets": {data.name: {"max_length": 16, **(own or {})}},
        **sections,
    }
    return open_session(Settings.from_mapping(settings), data)


def test_a_base_that_steps_move_far_gets_a_smaller_rate(tmp_path):
    calm, loud = opened(tmp_path / "calm", factor=1.0), opened(tmp_path / "loud", factor=30.0)
    assert (calm.rate_share, calm.training(calm.settings.train).learning_rate) == (1.0, 0.01)
    assert calm.training(calm.settings.probe).learning_rate == 0.005
    assert relative_step(loud.classifier, 1e-4) == pytest.approx(30 * relative_step(calm.classifier, 1e-4), rel=0.01)
    assert loud.rate_share in SHARES[1:]
    trained = loud.train(["value"])
    assert trained.learning_rate == pytest.approx(0.01 * loud.rate_share)
    assert trained.adapter.provenance["training"]["learning_rate"] == trained.learning_rate


def test_a_named_rate_counts_and_the_published_protocol_measures_none(tmp_path):
    named = opened(tmp_path / "named", factor=30.0, train={"learning_rate": 0.02}, probe={"learning_rate": 0.03})
    assert named.training(named.settings.train).learning_rate == 0.02
    assert named.training(named.settings.probe).learning_rate == 0.03
    paper = opened(tmp_path / "paper", factor=30.0, protocol="paper")
    assert paper.training(paper.settings.train).learning_rate == 0.01
    of_dataset = opened(tmp_path / "own", factor=30.0, own={"learning_rate": 7e-4})
    assert of_dataset.training(of_dataset.settings.train).learning_rate == 7e-4
    assert not any("rate_share" in vars(session) for session in (named, of_dataset)), "measured for nothing"


def test_a_base_without_weights_is_checked_all_the_same(tmp_path):
    session = opened(tmp_path, factor=30.0)
    check_base(session.settings, session.data)


def test_shares_of_the_usual_rates_are_plain_numbers():
    sections = (ProbeSettings(), TargetSettings())
    rates = [[section.resolved(100, share).learning_rate for share in SHARES] for section in sections]
    assert rates == [[0.005, 0.0015, 0.0005, 0.00015], [0.01, 0.003, 0.001, 0.0003]]
