"""An independent statement of the model, of its dropout and of its optimiser, in double precision.

It writes the numbers that `tests/parity.rs` holds the Rust code to. It shares no code with it: the equations are
those of the paper's model as the original (MMF) computes it, the gradients are JAX's. To run it again:

    pip install jax numpy safetensors
    python stages/tests/reference/visual_bert.py
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

jax.config.update("jax_enable_x64", True)

VOCAB, HIDDEN, LAYERS, HEADS, INNER, POSITIONS, FEATURES, BOTTLENECK = 30, 20, 2, 2, 36, 12, 14, 6
EPS = 1e-12
B, T, R = 3, 6, 4
DROPOUT, SEED, UPDATE = 0.3, 5, 3


# ---- parameters ------------------------------------------------------------------------------------------------

def linear(name, inputs, outputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name):
    return {f"{name}.weight": (HIDDEN,), f"{name}.bias": (HIDDEN,)}


def shapes(adapters):
    e = "model.bert.embeddings"
    s = {
        f"{e}.word_embeddings.weight": (VOCAB, HIDDEN),
        f"{e}.position_embeddings.weight": (POSITIONS, HIDDEN),
        f"{e}.token_type_embeddings.weight": (2, HIDDEN),
        f"{e}.position_embeddings_visual.weight": (POSITIONS, HIDDEN),
        f"{e}.token_type_embeddings_visual.weight": (2, HIDDEN),
    } | norm(f"{e}.LayerNorm") | linear(f"{e}.projection", FEATURES, HIDDEN)
    for i in range(LAYERS):
        n = f"model.bert.encoder.layer.{i}"
        for part in ("query", "key", "value"):
            s |= linear(f"{n}.attention.self.{part}", HIDDEN, HIDDEN)
        s |= linear(f"{n}.attention.output.dense", HIDDEN, HIDDEN) | norm(f"{n}.attention.output.LayerNorm")
        s |= linear(f"{n}.intermediate.dense", HIDDEN, INNER)
        s |= linear(f"{n}.output.dense", INNER, HIDDEN) | norm(f"{n}.output.LayerNorm")
        if adapters:
            s |= linear(f"{n}.output.AdaptComb1", HIDDEN, BOTTLENECK)
            s |= linear(f"{n}.output.AdaptComb2", BOTTLENECK, HIDDEN)
    s |= linear("model.bert.pooler.dense", HIDDEN, HIDDEN)
    s |= linear("model.classifier.0.dense", HIDDEN, HIDDEN) | norm("model.classifier.0.LayerNorm")
    return s | linear("model.classifier.1", HIDDEN, 2)


def trained(mode, name):
    head = name.startswith("model.classifier.")
    return {"full": True, "fc": head, "pe": head or "Adapt" in name}[mode]


# ---- dropout: a hash of (seed, update, site, element) ----------------------------------------------------------

def mix(x):
    m = (1 << 64) - 1
    x = (x + 0x9E3779B97F4A7C15) & m
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & m
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & m
    return x ^ (x >> 31)


def drop(x, site, on):
    if not on:
        return x
    key = mix(mix(mix(SEED) ^ UPDATE) ^ (site << 32))
    h = np.arange(x.size, dtype=np.uint32) ^ np.uint32(key & 0xFFFFFFFF)
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D)
    h = (h ^ (h >> np.uint32(15)) ^ np.uint32(key >> 32)) * np.uint32(0x846CA68B)
    h = h ^ (h >> np.uint32(16))
    keep = h >= np.uint32(round(DROPOUT * 2**32))
    return x * (keep.reshape(x.shape) / (1 - DROPOUT))


# ---- model -----------------------------------------------------------------------------------------------------

def affine(p, name, x):
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def layer_norm(p, name, x):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + EPS) * p[f"{name}.weight"] + p[f"{name}.bias"]


def gelu(x):
    return 0.5 * x * (1 + jax.scipy.special.erf(x / np.sqrt(2)))


def logits(p, batch, adapters, dropout):
    ids, regions, mask = batch
    e = "model.bert.embeddings"
    words = p[f"{e}.word_embeddings.weight"]
    # The row of padding (id 0) is read but receives no gradient.
    words = jnp.concatenate([jax.lax.stop_gradient(words[:1]), words[1:]])
    text = words[ids] + p[f"{e}.position_embeddings.weight"][:T] + p[f"{e}.token_type_embeddings.weight"][0]
    visual = affine(p, f"{e}.projection", regions)
    visual = visual + p[f"{e}.position_embeddings_visual.weight"][0] + p[f"{e}.token_type_embeddings_visual.weight"][0]
    x = drop(layer_norm(p, f"{e}.LayerNorm", jnp.concatenate([text, visual], 1)), 0, dropout)
    bias = ((1 - mask) * -10000.0)[:, None, None, :]
    for i in range(LAYERS):
        n, site = f"model.bert.encoder.layer.{i}", 1 + 3 * i
        # Of the last layer only the first row is read, so only that row is computed (and has masks).
        w = x if i + 1 < LAYERS else x[:, :1]

        def heads(y):
            return y.reshape(B, y.shape[1], HEADS, HIDDEN // HEADS).transpose(0, 2, 1, 3)

        q = heads(affine(p, f"{n}.attention.self.query", w))
        k = heads(affine(p, f"{n}.attention.self.key", x))
        v = heads(affine(p, f"{n}.attention.self.value", x))
        scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(HIDDEN // HEADS) + bias
        a = drop(jax.nn.softmax(scores, axis=-1), site, dropout)
        c = (a @ v).transpose(0, 2, 1, 3).reshape(w.shape)
        a = drop(affine(p, f"{n}.attention.output.dense", c), site + 1, dropout)
        a = layer_norm(p, f"{n}.attention.output.LayerNorm", a + w)
        u = affine(p, f"{n}.output.dense", gelu(affine(p, f"{n}.intermediate.dense", a)))
        u = drop(u, site + 2, dropout)
        if adapters:
            z = layer_norm(p, f"{n}.output.LayerNorm", u)
            d = affine(p, f"{n}.output.AdaptComb2", jax.nn.relu(affine(p, f"{n}.output.AdaptComb1", z)))
            x = layer_norm(p, f"{n}.output.LayerNorm", d + u + a)
        else:
            x = layer_norm(p, f"{n}.output.LayerNorm", u + a)
    pooled = drop(jnp.tanh(affine(p, "model.bert.pooler.dense", x[:, 0])), 1 + 3 * LAYERS, dropout)
    t = layer_norm(p, "model.classifier.0.LayerNorm", gelu(affine(p, "model.classifier.0.dense", pooled)))
    return affine(p, "model.classifier.1", t)


def loss(free, fixed, batch, labels, adapters, dropout):
    out = logits(free | fixed, batch, adapters, dropout)
    return -jax.nn.log_softmax(out)[jnp.arange(B), labels].mean(), out


# ---- optimiser -------------------------------------------------------------------------------------------------

def updates(free, fixed, batch, labels, adapters, rates, eps, decay):
    """The losses before each update and after the last."""
    m = {n: jnp.zeros_like(v) for n, v in free.items()}
    v = {n: jnp.zeros_like(w) for n, w in free.items()}
    losses = []
    run = jax.jit(lambda p: jax.value_and_grad(loss, has_aux=True)(p, fixed, batch, labels, adapters, False))
    for t, lr in enumerate(rates, 1):
        (value, _), grads = run(free)
        losses.append(float(value))
        for n, g in grads.items():
            m[n] = 0.9 * m[n] + 0.1 * g
            v[n] = 0.999 * v[n] + 0.001 * g * g
            step = lr * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            free[n] = free[n] - step * m[n] / (jnp.sqrt(v[n]) + eps)
            if not ("bias" in n or "LayerNorm.weight" in n):
                free[n] = free[n] - lr * decay * free[n]
    losses.append(float(run(free)[0][0]))
    return losses


def main():
    rng = np.random.default_rng(1)
    weights = {}
    for name, shape in shapes(True).items():
        values = rng.normal(0, 0.3, shape) + (1.0 if name.endswith("LayerNorm.weight") else 0.0)
        weights[name] = values.astype(np.float32)
    ids = np.zeros((B, T), np.uint32)
    mask = np.zeros((B, T + R), np.float32)
    for row, (text, present) in enumerate([([2, 9, 17, 4, 11, 3], 4), ([2, 21, 9, 3], 2), ([2, 3], 1)]):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = 1
        mask[row, T : T + present] = 1
    regions = np.maximum(rng.normal(0, 1, (B, R, FEATURES)), 0).astype(np.float32)
    labels = np.array([1, 0, 1])
    batch = (ids, regions.astype(np.float64), mask.astype(np.float64))

    tensors = {f"weight {name}": value for name, value in weights.items()}
    tensors |= {"ids": ids, "regions": regions, "mask": mask, "labels": labels.astype(np.uint32)}
    curves = []
    for mode in ("fc", "pe", "full"):
        adapters = mode == "pe"
        wide = {n: jnp.asarray(weights[n], jnp.float64) for n in shapes(adapters)}
        free = {n: v for n, v in wide.items() if trained(mode, n)}
        fixed = {n: v for n, v in wide.items() if not trained(mode, n)}
        for dropout in (False, True):
            case = f"{mode} dropout" if dropout else mode
            grad = jax.value_and_grad(loss, has_aux=True)
            (value, out), grads = grad(free, fixed, batch, labels, adapters, dropout)
            tensors[f"{case} logits"] = np.asarray(out, np.float32)
            tensors[f"{case} loss"] = np.asarray([value], np.float32)
            for name, g in grads.items():
                tensors[f"{case} grad {name}"] = np.asarray(g, np.float32)
        # The first update at rate 0, as a warm-up begins: the moments move, the parameters do not.
        for rates, eps, decay in [([0, 1e-3, 2e-3, 1e-3, 5e-4], 1e-8, 0.01), ([0, 0.1, 0.05, 0.1], 1e-3, 1.0),
                                  ([0, 0.1, 0.05, 0.1], 1e-3, 0.0)]:
            losses = updates(dict(free), fixed, batch, labels, adapters, rates, eps, decay)
            curves.append({"mode": mode, "rates": rates, "eps": eps, "decay": decay, "losses": losses})
    fixtures = Path(__file__).parent.parent / "fixtures"
    save_file(tensors, fixtures / "visual_bert.safetensors")
    (fixtures / "visual_bert_updates.json").write_text(json.dumps(curves, indent=1) + "\n")


if __name__ == "__main__":
    main()
