"""``python -m ray_envd`` is the ``ray-envd`` command."""

from ray_envd.agent.cli import main

if __name__ == "__main__":
    main()
