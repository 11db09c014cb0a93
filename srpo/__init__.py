"""SRPO: align a text-to-image model with human preference in about twenty updates (arXiv:2509.06942)."""

import logging

# said once at every import of diffusers where torchao and bitsandbytes are installed; none of it concerns what we use
for _name in ("torch.utils._pytree", "bitsandbytes.backends.cpu.ops", "diffusers.quantizers.torchao.torchao_quantizer"):
    logging.getLogger(_name).setLevel(logging.ERROR)
