"""Where the transformer families keep their bias terms, one entry a family.

``beft.sites.matching`` finds the one that fits.

A model with an encoder and a decoder has two layer lists. Their layers are numbered through, those of the decoder
after those of the encoder, and the biases of both attentions of a decoder's layer (over its own tokens, and over the
encoder's: cross-attention) are biases of the same terms.
"""

from beft.sites.layout import Layout, Place

# The bias that widens the embeddings of ELECTRA is no bias term of ours.
BERT = Layout(
    name="BERT, RoBERTa or ELECTRA",
    layers="encoder.layer",
    terms={
        "query": Place("attention.self.query"),
        "key": Place("attention.self.key"),
        "value": Place("attention.self.value"),
        "attention_output": Place("attention.output.dense"),
        "intermediate": Place("intermediate.dense"),
        "output": Place("output.dense"),
        "attention_norm": Place("attention.output.LayerNorm"),
        "output_norm": Place("output.LayerNorm"),
    },
    outside={"embedding_norm": Place("embeddings.LayerNorm")},
    post_norm=True,
)

# Where positions have projections of their own (share_att_key: false), their biases are no bias terms of ours.
DEBERTA_V2 = Layout(
    name="DeBERTa-v2 or v3",
    layers="encoder.layer",
    terms={
        "query": Place("attention.self.query_proj"),
        "key": Place("attention.self.key_proj"),
        "value": Place("attention.self.value_proj"),
        "attention_output": Place("attention.output.dense"),
        "intermediate": Place("intermediate.dense"),
        "output": Place("output.dense"),
        "attention_norm": Place("attention.output.LayerNorm"),
        "output_norm": Place("output.LayerNorm"),
    },
    outside={"embedding_norm": Place("embeddings.LayerNorm")},
    optional=("attention.self.pos_key_proj", "attention.self.pos_query_proj"),
    post_norm=True,
)

DEBERTA = Layout(
    name="DeBERTa (v1)",
    layers="encoder.layer",
    terms={
        "query": Place("attention.self.in_proj"),
        "attention_output": Place("attention.output.dense"),
        "intermediate": Place("intermediate.dense"),
        "output": Place("output.dense"),
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
        "query": Place("albert_layers.0.attention.query"),
        "key": Place("albert_layers.0.attention.key"),
        "value": Place("albert_layers.0.attention.value"),
        "attention_output": Place("albert_layers.0.attention.dense"),
        "intermediate": Place("albert_layers.0.ffn"),
        "output": Place("albert_layers.0.ffn_output"),
        "attention_norm": Place("albert_layers.0.attention.LayerNorm"),
        "output_norm": Place("albert_layers.0.full_layer_layer_norm"),
    },
    outside={"embedding_norm": Place("embeddings.LayerNorm")},
)

MPNET = Layout(
    name="MPNet",
    layers="encoder.layer",
    terms={
        "query": Place("attention.attn.q"),
        "key": Place("attention.attn.k"),
        "value": Place("attention.attn.v"),
        "attention_output": Place("attention.attn.o"),
        "intermediate": Place("intermediate.dense"),
        "output": Place("output.dense"),
        "attention_norm": Place("attention.LayerNorm"),
        "output_norm": Place("output.LayerNorm"),
    },
    outside={"embedding_norm": Place("embeddings.LayerNorm")},
    post_norm=True,
)

DISTILBERT = Layout(
    name="DistilBERT",
    layers="transformer.layer",
    terms={
        "query": Place("attention.q_lin"),
        "key": Place("attention.k_lin"),
        "value": Place("attention.v_lin"),
        "attention_output": Place("attention.out_lin"),
        "intermediate": Place("ffn.lin1"),
        "output": Place("ffn.lin2"),
        "attention_norm": Place("sa_layer_norm"),
        "output_norm": Place("output_layer_norm"),
    },
    outside={"embedding_norm": Place("embeddings.LayerNorm")},
    post_norm=True,
)

OPT = Layout(
    name="OPT",
    layers="decoder.layers",
    terms={
        "query": Place("self_attn.q_proj"),
        "key": Place("self_attn.k_proj"),
        "value": Place("self_attn.v_proj"),
        "attention_output": Place("self_attn.out_proj"),
        "intermediate": Place("fc1"),
        "output": Place("fc2"),
        "attention_norm": Place("self_attn_layer_norm"),
        "output_norm": Place("final_layer_norm"),
    },
    outside={"final_norm": Place("decoder.final_layer_norm")},
)

GPT2 = Layout(
    name="GPT-2",
    layers="h",
    terms={
        "query": Place("attn.c_attn", part=0, parts=3),
        "key": Place("attn.c_attn", part=1, parts=3),
        "value": Place("attn.c_attn", part=2, parts=3),
        "attention_output": Place("attn.c_proj"),
        "intermediate": Place("mlp.c_fc"),
        "output": Place("mlp.c_proj"),
        "attention_norm": Place("ln_1"),
        "output_norm": Place("ln_2"),
    },
    outside={"final_norm": Place("ln_f")},
)

GPTJ = Layout(
    name="GPT-J",
    layers="h",
    terms={
        "query": Place("attn.q_proj"),
        "key": Place("attn.k_proj"),
        "value": Place("attn.v_proj"),
        "attention_output": Place("attn.out_proj"),
        "intermediate": Place("mlp.fc_in"),
        "output": Place("mlp.fc_out"),
        "attention_norm": Place("ln_1"),
    },
    outside={"final_norm": Place("ln_f")},
)

GPT_NEOX = Layout(
    name="GPT-NeoX",
    layers="layers",
    terms={
        "query": Place("attention.query_key_value", part=0, parts=3, head_width="head_size"),
        "key": Place("attention.query_key_value", part=1, parts=3, head_width="head_size"),
        "value": Place("attention.query_key_value", part=2, parts=3, head_width="head_size"),
        "attention_output": Place("attention.dense"),
        "intermediate": Place("mlp.dense_h_to_4h"),
        "output": Place("mlp.dense_4h_to_h"),
        "attention_norm": Place("input_layernorm"),
        "output_norm": Place("post_attention_layernorm"),
    },
    outside={"final_norm": Place("final_layer_norm")},
)

BLOOM = Layout(
    name="BLOOM",
    layers="h",
    terms={
        "query": Place("self_attention.query_key_value", part=0, parts=3, head_width="head_dim"),
        "key": Place("self_attention.query_key_value", part=1, parts=3, head_width="head_dim"),
        "value": Place("self_attention.query_key_value", part=2, parts=3, head_width="head_dim"),
        "attention_output": Place("self_attention.dense"),
        "intermediate": Place("mlp.dense_h_to_4h"),
        "output": Place("mlp.dense_4h_to_h"),
        "attention_norm": Place("input_layernorm"),
        "output_norm": Place("post_attention_layernorm"),
    },
    outside={"embedding_norm": Place("word_embeddings_layernorm"), "final_norm": Place("ln_f")},
)

# A gated feed-forward has two projections to the wide side. The bias of the gated one (up) acts as the intermediate
# bias of the other families does; that of the gate itself is no bias term of ours. (Gemma-2 and 3 have two norms more.
# None of these norms has a bias.)
LLAMA = Layout(
    name="Llama, Mistral, Qwen2, Qwen3 or Gemma",
    layers="layers",
    terms={
        "query": Place("self_attn.q_proj"),
        "key": Place("self_attn.k_proj"),
        "value": Place("self_attn.v_proj"),
        "attention_output": Place("self_attn.o_proj"),
        "intermediate": Place("mlp.up_proj"),
        "output": Place("mlp.down_proj"),
        "attention_norm": Place("input_layernorm"),
        "output_norm": Place("post_attention_layernorm"),
    },
    outside={"final_norm": Place("norm")},
    other=("mlp.gate_proj",),
)

# Attention and feed-forward read the same normalised input, so that a layer has one norm only.
PHI = Layout(
    name="Phi",
    layers="layers",
    terms={
        "query": Place("self_attn.q_proj"),
        "key": Place("self_attn.k_proj"),
        "value": Place("self_attn.v_proj"),
        "attention_output": Place("self_attn.dense"),
        "intermediate": Place("mlp.fc1"),
        "output": Place("mlp.fc2"),
        "attention_norm": Place("input_layernorm"),
    },
    outside={"final_norm": Place("final_layernorm")},
)

# The query's part is as wide as all heads, those of key and value as the heads that the queries of a group share.
PHI3 = Layout(
    name="Phi-3",
    layers="layers",
    terms={
        "query": Place("self_attn.qkv_proj", part=0, parts=3, query_from="self_attn.o_proj"),
        "key": Place("self_attn.qkv_proj", part=1, parts=3, query_from="self_attn.o_proj"),
        "value": Place("self_attn.qkv_proj", part=2, parts=3, query_from="self_attn.o_proj"),
        "attention_output": Place("self_attn.o_proj"),
        "intermediate": Place("mlp.gate_up_proj", part=1, parts=2),
        "output": Place("mlp.down_proj"),
        "attention_norm": Place("input_layernorm"),
        "output_norm": Place("post_attention_layernorm"),
    },
    outside={"final_norm": Place("norm")},
)

_BART_LAYER = {
    "query": Place("self_attn.q_proj"),
    "key": Place("self_attn.k_proj"),
    "value": Place("self_attn.v_proj"),
    "attention_output": Place("self_attn.out_proj"),
    "intermediate": Place("fc1"),
    "output": Place("fc2"),
    "attention_norm": Place("self_attn_layer_norm"),
    "output_norm": Place("final_layer_norm"),
}

BART = Layout(
    name="BART",
    layers="encoder.layers",
    terms=_BART_LAYER,
    outside={"embedding_norm": Place("encoder.layernorm_embedding"), "final_norm": Place("encoder.layer_norm")},
    decoder=Layout(
        name="BART's decoder",
        layers="decoder.layers",
        terms=_BART_LAYER,
        cross={
            "query": Place("encoder_attn.q_proj"),
            "key": Place("encoder_attn.k_proj"),
            "value": Place("encoder_attn.v_proj"),
            "attention_output": Place("encoder_attn.out_proj"),
            "attention_norm": Place("encoder_attn_layer_norm"),
        },
        outside={"embedding_norm": Place("decoder.layernorm_embedding"), "final_norm": Place("decoder.layer_norm")},
    ),
)

# From version 1.1 on (Flan-T5, mT5) the feed-forward is gated: wi_1 is the gated projection, wi_0 the gate.
T5 = Layout(
    name="T5",
    layers="encoder.block",
    terms={
        "query": Place("layer.0.SelfAttention.q"),
        "key": Place("layer.0.SelfAttention.k"),
        "value": Place("layer.0.SelfAttention.v"),
        "attention_output": Place("layer.0.SelfAttention.o"),
        "intermediate": Place("layer.1.DenseReluDense.wi", instead="layer.1.DenseReluDense.wi_1"),
        "output": Place("layer.1.DenseReluDense.wo"),
        "attention_norm": Place("layer.0.layer_norm"),
        "output_norm": Place("layer.1.layer_norm"),
    },
    outside={"final_norm": Place("encoder.final_layer_norm")},
    optional=("layer.1.DenseReluDense.wi_0",),
    decoder=Layout(
        name="T5's decoder",
        layers="decoder.block",
        terms={
            "query": Place("layer.0.SelfAttention.q"),
            "key": Place("layer.0.SelfAttention.k"),
            "value": Place("layer.0.SelfAttention.v"),
            "attention_output": Place("layer.0.SelfAttention.o"),
            "intermediate": Place("layer.2.DenseReluDense.wi", instead="layer.2.DenseReluDense.wi_1"),
            "output": Place("layer.2.DenseReluDense.wo"),
            "attention_norm": Place("layer.0.layer_norm"),
            "output_norm": Place("layer.2.layer_norm"),
        },
        cross={
            "query": Place("layer.1.EncDecAttention.q"),
            "key": Place("layer.1.EncDecAttention.k"),
            "value": Place("layer.1.EncDecAttention.v"),
            "attention_output": Place("layer.1.EncDecAttention.o"),
            "attention_norm": Place("layer.1.layer_norm"),
        },
        outside={"final_norm": Place("decoder.final_layer_norm")},
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
