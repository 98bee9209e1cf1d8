"""JoEm (Baek et al., ICCV 2021): pixel features and class embeddings meet in one space.

`networks.py`, `objectives.py`: the parts. A semantic encoder turns the embedding of any class into a
prototype; a pixel has the class of the nearest one, after Apollonius calibration
(`zslib.prototypes`).

`frozen.py`: what is left of it on cached features, without training (`closed_form.py`) and with a
small head (`head.py`); both learn from `cells.py`.
"""
