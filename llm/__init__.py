"""The science: data, models, training, evaluation. Knows files and tensors, and nothing of Prefect or MLflow."""
