"""Fine-tune Stable Diffusion with LoRA on a folder of captioned pictures; see --help."""

from sdlora.commands.train.training_door import main

if __name__ == "__main__":
    main()
