"""The language model of all stages that train or ask one: layers, files, sampling, LoRA, import, export."""
