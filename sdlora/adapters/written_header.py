"""Header entries of written LoRA files: what was trained, and hashes of the weights."""

import hashlib
import json
from collections.abc import Mapping

from safetensors.torch import save
from torch import Tensor

from sdlora.adapters.lora_file import LoraFile
from sdlora.adapters.trained_updates import TYPE_OF


def network(lora: LoraFile, alphas: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """Header entries of kohya's trainer on a LoRA.

    Args:
        lora: The LoRA, of at least one plain part.
        alphas: Part -> layer -> alpha in the file.
    """
    kinds = {
        (tensors["A"].shape[0], alphas[part][layer])
        for part in alphas
        for layer, tensors in lora.layers(part).items()
    }
    first = next(iter(alphas))
    spec = lora.specs[first]
    args = {
        "mixed_ranks": len(kinds) > 1,
        "use_dora": spec.use_dora,
        "use_rslora": spec.use_rslora,
    }
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(spec.r),
        "ss_network_alpha": str(next(iter(alphas[first].values()))),
        "ss_network_args": json.dumps(args),
        "ss_network_dropout": str(spec.dropout),
    }


def lycoris_network(lora: LoraFile) -> dict[str, str]:
    """The same of LyCORIS, and of OFT, which it trains otherwise."""
    updates = [each for layers in lora.updates.values() for each in layers.values()]
    ranks = [rank for each in updates if (rank := each.kind.rank(each.shapes)) is not None]
    algo = TYPE_OF[updates[0].kind.name]
    return {
        "ss_network_module": "peft.tuners.oft" if algo == "oft" else "lycoris.kohya",
        "ss_network_dim": str(max(ranks, default=None)),
        "ss_network_alpha": str(max(ranks, default=None)),  # folded: a scale of 1
        "ss_network_args": json.dumps({"algo": algo}),
    }


def hashes(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> dict[str, str]:
    """Hashes by which model managers identify a file, independent of other metadata.

    Source:
        kohya-ss/sd-scripts, library/train_util.py, ``precalculate_safetensors_hashes``; ModelSpec
        1.0.1, ``hash_sha256``.
    """
    data = save(dict(tensors), {k: v for k, v in header.items() if k.startswith("ss_")})
    content = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
    legacy = hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8]
    return {
        "sshs_model_hash": content,
        "sshs_legacy_hash": legacy,
        "modelspec.hash_sha256": f"0x{content}",
    }
