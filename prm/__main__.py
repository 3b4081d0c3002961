"""`python -m prm`, which is also what torchrun takes: torchrun --nproc-per-node 4 -m prm train RECIPE."""

from prm.cli.app import main

if __name__ == "__main__":
    main()
