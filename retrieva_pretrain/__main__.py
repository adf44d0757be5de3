"""`python -m retrieva_pretrain`, which is what torchrun starts."""

from retrieva_pretrain.cli import main

# megatron-core's checkpoint writer starts processes of its own, which import this module again.
if __name__ == "__main__":
    main()
