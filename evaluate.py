"""Draw the prompts with a LoRA and without it, and score both; see --help."""

from sdlora.commands.evaluate.scoring_door import main

if __name__ == "__main__":
    main()
