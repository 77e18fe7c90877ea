"""Where the transformer families keep their bias terms, one entry a family.

``beft.sites.matching`` finds the one that fits.

A model with an encoder and a decoder has two layer lists. Their layers are numbered through, those of the decoder
after those of the encoder, and the biases of both attentions of a decoder's layer (over its own tokens, and over the
encoder's: cross-attention) are biases of the same terms.
"""

from beft.sites.layout import Layout, TermLocation

# The bias that widens the embeddings of ELECTRA is no bias term of ours.
BERT = Layout(
    name="BERT, RoBERTa or ELECTRA",
    layers="encoder.layer",
    terms={
        "query": TermLocation("attention.self.query"),
        "key": TermLocation("attention.self.key"),
        "value": TermLocation("attention.self.value"),
        "attention_output": TermLocation("attention.output.dense"),
        "intermediate": TermLocation("intermediate.dense"),
        "output": TermLocation("output.dense"),
        "attention_norm": TermLocation("attention.output.LayerNorm"),
        "output_norm": TermLocation("output.LayerNorm"),
    },
    outside={"embedding_norm": TermLocation("embeddings.LayerNorm")},
    post_norm=True,
)

# Where positions have projections of their own (share_att_key: false), their biases are no bias terms of ours.
DEBERTA_V2 = Layout(
    name="DeBERTa-v2 or v3",
    layers="encoder.layer",
    terms={
        "query": TermLocation("attention.self.query_proj"),
        "key": TermLocation("attention.self.key_proj"),
        "value": TermLocation("attention.self.value_proj"),
        "attention_output": TermLocation("attention.output.dense"),
        "intermediate": TermLocation("intermediate.dense"),
        "output": TermLocation("output.dense"),
        "attention_norm": TermLocation("attention.output.LayerNorm"),
        "output_norm": TermLocation("output.LayerNorm"),
    },
    outside={"embedding_norm": TermLocation("embeddings.LayerNorm")},
    optional=("attention.self.pos_key_proj", "attention.self.pos_query_proj"),
    post_norm=True,
)

DEBERTA = Layout(
    name="DeBERTa (v1)",
    layers="encoder.layer",
    terms={
        "query": TermLocation("attention.self.in_proj"),
        "attention_output": TermLocation("attention.output.dense"),
        "intermediate": TermLocation("intermediate.dense"),
        "output": TermLocation("output.dense"),
    },
    optional=("attention.self.pos_proj", "attention.self.pos_q_proj"),
    refused=(
        "its query and value biases (q_bias, v_bias) are parameters of the attention and of no projection, it has no "
        "key bias, and its norms are of a class of their own. Use DeBERTa-v2 or v3"
    ),
)

# All layers are one layer, used many times: a term has one site. (A model may have a few groups of such layers.) Its
# last use cannot be told from the others, so that it computes every token.
ALBERT = Layout(
    name="ALBERT",
    layers="encoder.albert_layer_groups",
    terms={
        "query": TermLocation("albert_layers.0.attention.query"),
        "key": TermLocation("albert_layers.0.attention.key"),
        "value": TermLocation("albert_layers.0.attention.value"),
        "attention_output": TermLocation("albert_layers.0.attention.dense"),
        "intermediate": TermLocation("albert_layers.0.ffn"),
        "output": TermLocation("albert_layers.0.ffn_output"),
        "attention_norm": TermLocation("albert_layers.0.attention.LayerNorm"),
        "output_norm": TermLocation("albert_layers.0.full_layer_layer_norm"),
    },
    outside={"embedding_norm": TermLocation("embeddings.LayerNorm")},
)

MPNET = Layout(
    name="MPNet",
    layers="encoder.layer",
    terms={
        "query": TermLocation("attention.attn.q"),
        "key": TermLocation("attention.attn.k"),
        "value": TermLocation("attention.attn.v"),
        "attention_output": TermLocation("attention.attn.o"),
        "intermediate": TermLocation("intermediate.dense"),
        "output": TermLocation("output.dense"),
        "attention_norm": TermLocation("attention.LayerNorm"),
        "output_norm": TermLocation("output.LayerNorm"),
    },
    outside={"embedding_norm": TermLocation("embeddings.LayerNorm")},
    post_norm=True,
)

DISTILBERT = Layout(
    name="DistilBERT",
    layers="transformer.layer",
    terms={
        "query": TermLocation("attention.q_lin"),
        "key": TermLocation("attention.k_lin"),
        "value": TermLocation("attention.v_lin"),
        "attention_output": TermLocation("attention.out_lin"),
        "intermediate": TermLocation("ffn.lin1"),
        "output": TermLocation("ffn.lin2"),
        "attention_norm": TermLocation("sa_layer_norm"),
        "output_norm": TermLocation("output_layer_norm"),
    },
    outside={"embedding_norm": TermLocation("embeddings.LayerNorm")},
    post_norm=True,
)

OPT = Layout(
    name="OPT",
    layers="decoder.layers",
    terms={
        "query": TermLocation("self_attn.q_proj"),
        "key": TermLocation("self_attn.k_proj"),
        "value": TermLocation("self_attn.v_proj"),
        "attention_output": TermLocation("self_attn.out_proj"),
        "intermediate": TermLocation("fc1"),
        "output": TermLocation("fc2"),
        "attention_norm": TermLocation("self_attn_layer_norm"),
        "output_norm": TermLocation("final_layer_norm"),
    },
    outside={"final_norm": TermLocation("decoder.final_layer_norm")},
)

GPT2 = Layout(
    name="GPT-2",
    layers="h",
    terms={
        "query": TermLocation("attn.c_attn", part=0, parts=3),
        "key": TermLocation("attn.c_attn", part=1, parts=3),
        "value": TermLocation("attn.c_attn", part=2, parts=3),
        "attention_output": TermLocation("attn.c_proj"),
        "intermediate": TermLocation("mlp.c_fc"),
        "output": TermLocation("mlp.c_proj"),
        "attention_norm": TermLocation("ln_1"),
        "output_norm": TermLocation("ln_2"),
    },
    outside={"final_norm": TermLocation("ln_f")},
)

GPTJ = Layout(
    name="GPT-J",
    layers="h",
    terms={
        "query": TermLocation("attn.q_proj"),
        "key": TermLocation("attn.k_proj"),
        "value": TermLocation("attn.v_proj"),
        "attention_output": TermLocation("attn.out_proj"),
        "intermediate": TermLocation("mlp.fc_in"),
        "output": TermLocation("mlp.fc_out"),
        "attention_norm": TermLocation("ln_1"),
    },
    outside={"final_norm": TermLocation("ln_f")},
)

GPT_NEOX = Layout(
    name="GPT-NeoX",
    layers="layers",
    terms={
        "query": TermLocation("attention.query_key_value", part=0, parts=3, head_width="head_size"),
        "key": TermLocation("attention.query_key_value", part=1, parts=3, head_width="head_size"),
        "value": TermLocation("attention.query_key_value", part=2, parts=3, head_width="head_size"),
        "attention_output": TermLocation("attention.dense"),
        "intermediate": TermLocation("mlp.dense_h_to_4h"),
        "output": TermLocation("mlp.dense_4h_to_h"),
        "attention_norm": TermLocation("input_layernorm"),
        "output_norm": TermLocation("post_attention_layernorm"),
    },
    outside={"final_norm": TermLocation("final_layer_norm")},
)

BLOOM = Layout(
    name="BLOOM",
    layers="h",
    terms={
        "query": TermLocation("self_attention.query_key_value", part=0, parts=3, head_width="head_dim"),
        "key": TermLocation("self_attention.query_key_value", part=1, parts=3, head_width="head_dim"),
        "value": TermLocation("self_attention.query_key_value", part=2, parts=3, head_width="head_dim"),
        "attention_output": TermLocation("self_attention.dense"),
        "intermediate": TermLocation("mlp.dense_h_to_4h"),
        "output": TermLocation("mlp.dense_4h_to_h"),
        "attention_norm": TermLocation("input_layernorm"),
        "output_norm": TermLocation("post_attention_layernorm"),
    },
    outside={"embedding_norm": TermLocation("word_embeddings_layernorm"), "final_norm": TermLocation("ln_f")},
)

# A gated feed-forward has two projections to the wide side. The bias of the gated one (up) acts as the intermediate
# bias of the other families does; that of the gate itself is no bias term of ours. (Gemma-2 and 3 have two norms more.
# None of these norms has a bias.)
LLAMA = Layout(
    name="Llama, Mistral, Qwen2, Qwen3 or Gemma",
    layers="layers",
    terms={
        "query": TermLocation("self_attn.q_proj"),
        "key": TermLocation("self_attn.k_proj"),
        "value": TermLocation("self_attn.v_proj"),
        "attention_output": TermLocation("self_attn.o_proj"),
        "intermediate": TermLocation("mlp.up_proj"),
        "output": TermLocation("mlp.down_proj"),
        "attention_norm": TermLocation("input_layernorm"),
        "output_norm": TermLocation("post_attention_layernorm"),
    },
    outside={"final_norm": TermLocation("norm")},
    other=("mlp.gate_proj",),
)

# Attention and feed-forward read the same normalised input, so that a layer has one norm only.
PHI = Layout(
    name="Phi",
    layers="layers",
    terms={
        "query": TermLocation("self_attn.q_proj"),
        "key": TermLocation("self_attn.k_proj"),
        "value": TermLocation("self_attn.v_proj"),
        "attention_output": TermLocation("self_attn.dense"),
        "intermediate": TermLocation("mlp.fc1"),
        "output": TermLocation("mlp.fc2"),
        "attention_norm": TermLocation("input_layernorm"),
    },
    outside={"final_norm": TermLocation("final_layernorm")},
)

# The query's part is as wide as all heads, those of key and value as the heads that the queries of a group share.
PHI3 = Layout(
    name="Phi-3",
    layers="layers",
    terms={
        "query": TermLocation("self_attn.qkv_proj", part=0, parts=3, query_from="self_attn.o_proj"),
        "key": TermLocation("self_attn.qkv_proj", part=1, parts=3, query_from="self_attn.o_proj"),
        "value": TermLocation("self_attn.qkv_proj", part=2, parts=3, query_from="self_attn.o_proj"),
        "attention_output": TermLocation("self_attn.o_proj"),
        "intermediate": TermLocation("mlp.gate_up_proj", part=1, parts=2),
        "output": TermLocation("mlp.down_proj"),
        "attention_norm": TermLocation("input_layernorm"),
        "output_norm": TermLocation("post_attention_layernorm"),
    },
    outside={"final_norm": TermLocation("norm")},
)

_BART_LAYER = {
    "query": TermLocation("self_attn.q_proj"),
    "key": TermLocation("self_attn.k_proj"),
    "value": TermLocation("self_attn.v_proj"),
    "attention_output": TermLocation("self_attn.out_proj"),
    "intermediate": TermLocation("fc1"),
    "output": TermLocation("fc2"),
    "attention_norm": TermLocation("self_attn_layer_norm"),
    "output_norm": TermLocation("final_layer_norm"),
}

BART = Layout(
    name="BART",
    layers="encoder.layers",
    terms=_BART_LAYER,
    outside={
        "embedding_norm": TermLocation("encoder.layernorm_embedding"),
        "final_norm": TermLocation("encoder.layer_norm"),
    },
    decoder=Layout(
        name="BART's decoder",
        layers="decoder.layers",
        terms=_BART_LAYER,
        cross={
            "query": TermLocation("encoder_attn.q_proj"),
            "key": TermLocation("encoder_attn.k_proj"),
            "value": TermLocation("encoder_attn.v_proj"),
            "attention_output": TermLocation("encoder_attn.out_proj"),
            "attention_norm": TermLocation("encoder_attn_layer_norm"),
        },
        outside={
            "embedding_norm": TermLocation("decoder.layernorm_embedding"),
            "final_norm": TermLocation("decoder.layer_norm"),
        },
    ),
)

# From version 1.1 on (Flan-T5, mT5) the feed-forward is gated: wi_1 is the gated projection, wi_0 the gate.
T5 = Layout(
    name="T5",
    layers="encoder.block",
    terms={
        "query": TermLocation("layer.0.SelfAttention.q"),
        "key": TermLocation("layer.0.SelfAttention.k"),
        "value": TermLocation("layer.0.SelfAttention.v"),
        "attention_output": TermLocation("layer.0.SelfAttention.o"),
        "intermediate": TermLocation("layer.1.DenseReluDense.wi", instead="layer.1.DenseReluDense.wi_1"),
        "output": TermLocation("layer.1.DenseReluDense.wo"),
        "attention_norm": TermLocation("layer.0.layer_norm"),
        "output_norm": TermLocation("layer.1.layer_norm"),
    },
    outside={"final_norm": TermLocation("encoder.final_layer_norm")},
    optional=("layer.1.DenseReluDense.wi_0",),
    decoder=Layout(
        name="T5's decoder",
        layers="decoder.block",
        terms={
            "query": TermLocation("layer.0.SelfAttention.q"),
            "key": TermLocation("layer.0.SelfAttention.k"),
            "value": TermLocation("layer.0.SelfAttention.v"),
            "attention_output": TermLocation("layer.0.SelfAttention.o"),
            "intermediate": TermLocation("layer.2.DenseReluDense.wi", instead="layer.2.DenseReluDense.wi_1"),
            "output": TermLocation("layer.2.DenseReluDense.wo"),
            "attention_norm": TermLocation("layer.0.layer_norm"),
            "output_norm": TermLocation("layer.2.layer_norm"),
        },
        cross={
            "query": TermLocation("layer.1.EncDecAttention.q"),
            "key": TermLocation("layer.1.EncDecAttention.k"),
            "value": TermLocation("layer.1.EncDecAttention.v"),
            "attention_output": TermLocation("layer.1.EncDecAttention.o"),
            "attention_norm": TermLocation("layer.1.layer_norm"),
        },
        outside={"final_norm": TermLocation("decoder.final_layer_norm")},
        optional=("layer.2.DenseReluDense.wi_0",),
    ),
)

LAYOUTS: tuple[Layout, ...] = (
    BERT,
    MPNET,
    DISTILBERT,
    DEBERTA_V2,
    DEBERTA,
    ALBERT,
    OPT,
    GPT2,
    GPTJ,
    GPT_NEOX,
    BLOOM,
    LLAMA,
    PHI,
    PHI3,
    BART,
    T5,
)
