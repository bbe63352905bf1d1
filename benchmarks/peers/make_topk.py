"""Write random TopK SAEs with sae_lens itself: ``make_topk.py FOLDER COUNT D_IN D_SAE K SITE MODEL``."""

from __future__ import annotations

import sys

import torch
from sae_lens import TopKSAE, TopKSAEConfig


def main() -> None:
    """Write the SAEs as ``FOLDER/topk-<n>``."""
    folder, (count, d_in, d_sae, k), (site, model) = sys.argv[1], map(int, sys.argv[2:6]), sys.argv[6:8]
    for seed in range(count):
        torch.manual_seed(seed)
        sae = TopKSAE(TopKSAEConfig(d_in=d_in, d_sae=d_sae, k=k, rescale_acts_by_decoder_norm=False))
        with torch.no_grad():
            directions = torch.nn.functional.normalize(torch.randn(d_sae, d_in), dim=1)
            sae.W_dec.copy_(directions)
            sae.W_enc.copy_(directions.T)
            sae.b_enc.normal_(std=0.01)
            sae.b_dec.normal_(std=0.01)
        sae.cfg.metadata.hook_name = site
        sae.cfg.metadata.model_name = model
        sae.cfg.metadata.context_size = 128
        sae.save_model(f"{folder}/topk-{seed}")


if __name__ == "__main__":
    main()
