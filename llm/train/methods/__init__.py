"""The stages that train, pretrain to classify: each a module with a function of the stage's name."""
