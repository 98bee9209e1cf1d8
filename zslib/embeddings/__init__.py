"""Class vectors: published or trained on a corpus, stored raw, combined by each method's recipe.

`words` and `corpus` give word vectors (gensim, imported when used); `table` keeps them (numpy).
"""
