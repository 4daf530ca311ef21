"""Stage instruct: examples of questions and answers, out of the corpus, files and data sets."""
