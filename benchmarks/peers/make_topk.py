"""Write random TopK SAEs with sae_lens itself (d_in 768, 24,576 latents, k 32, blocks.8.hook_resid_pre)."""

from __future__ import annotations

import sys

import torch
from sae_lens import TopKSAE, TopKSAEConfig


def main() -> None:
    """Write ``argv[2]`` SAEs under ``argv[1]``."""
    for seed in range(int(sys.argv[2])):
        torch.manual_seed(seed)
        sae = TopKSAE(TopKSAEConfig(d_in=768, d_sae=24576, k=32, rescale_acts_by_decoder_norm=False))
        with torch.no_grad():
            directions = torch.nn.functional.normalize(torch.randn(24576, 768), dim=1)
            sae.W_dec.copy_(directions)
            sae.W_enc.copy_(directions.T)
            sae.b_enc.normal_(std=0.01)
            sae.b_dec.normal_(std=0.01)
        sae.cfg.metadata.hook_name = "blocks.8.hook_resid_pre"
        sae.cfg.metadata.model_name = "gpt2"
        sae.cfg.metadata.context_size = 128
        sae.save_model(f"{sys.argv[1]}/topk-{seed}")


if __name__ == "__main__":
    main()
