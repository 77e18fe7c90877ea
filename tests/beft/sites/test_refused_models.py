"""Every way in which a model can fail to have the bias sites that are wanted."""

import pytest
from torch import nn

from beft.errors import InputError
from beft.sites.site import find_sites


def test_deberta_v1_is_refused_with_the_reason():
    from transformers import DebertaConfig, DebertaForSequenceClassification

    config = DebertaConfig(
        vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    with pytest.raises(InputError, match=r"DeBERTa \(v1\): its query and value biases .* Use DeBERTa-v2 or v3"):
        find_sites(DebertaForSequenceClassification(config))


def test_a_model_without_biases_says_that_they_can_be_added(tiny):
    with pytest.raises(InputError, match=r"no bias term in any layer.*found: none.*base\.add_biases: true"):
        find_sites(tiny("llama"))
    with pytest.raises(InputError, match=r"no bias at attention_output in any layer.*found: query, key, value.*added"):
        find_sites(tiny("qwen2"), ["query", "attention_output"])


def test_a_norm_without_bias_cannot_get_one(tiny):
    with pytest.raises(InputError, match="no bias at attention_norm") as error:
        find_sites(tiny("llama"), ["attention_norm"], add=True)
    assert "can be added" not in str(error.value)
    with pytest.raises(InputError, match="no bias at embedding_norm"):
        find_sites(tiny("gpt2"), ["embedding_norm"])


def test_unknown_and_missing_terms(tiny):
    with pytest.raises(InputError, match=r"unknown bias term 'vlaue'.*'value'"):
        find_sites(tiny("bert"), ["vlaue"])
    with pytest.raises(InputError, match="no bias term was asked for"):
        find_sites(tiny("bert"), [])


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("terms", [None, ["query"]])
def test_a_term_in_part_of_the_layers_is_an_error(tiny, terms, add):
    model = tiny("bert")
    model.bert.encoder.layer[0].attention.self.query.bias = None
    with pytest.raises(InputError, match=r"only part of the layers .* query .* 1 of 2 layers \(layer 1\)"):
        find_sites(model, terms, add=add)


def test_a_layer_of_another_structure_is_an_error(tiny):
    model = tiny("bert")
    model.bert.encoder.layer[1] = nn.Linear(32, 32)
    with pytest.raises(InputError, match=r"only part of the layers.*bert\.encoder\.layer .* except in layer 1"):
        find_sites(model)


def test_an_unknown_structure_lists_what_was_found():
    model = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])})
    with pytest.raises(InputError, match=r"structure of ModuleDict is unknown.*GPT-2.*blocks \(2 of Linear\)"):
        find_sites(model)


def test_a_projection_that_the_layout_does_not_know_is_no_match(tiny):
    """Cross-attention, or an adapter put into the layers: not a BERT whose every bias is known."""
    with pytest.raises(InputError, match="unknown"):
        find_sites(tiny("bert", is_decoder=True, add_cross_attention=True))


def test_a_decoder_that_lacks_its_encoder_is_an_error(tiny):
    from transformers import BartForCausalLM

    with pytest.raises(InputError, match="unknown"):
        find_sites(BartForCausalLM(tiny("bart").config))


def test_a_decoder_of_another_structure_is_an_error(tiny):
    model = tiny("bart")
    model.model.decoder.layers[1].encoder_attn.extra = nn.Linear(4, 4)
    with pytest.raises(InputError, match=r"model\.decoder\.layers has the structure of BART except in layer 1"):
        find_sites(model)


def test_two_lists_of_layers_are_an_error(tiny):
    with pytest.raises(InputError, match=r"more than one list of layers \(0\.bert\.encoder\.layer, 1\."):
        find_sites(nn.ModuleList([tiny("bert"), tiny("roberta")]))
