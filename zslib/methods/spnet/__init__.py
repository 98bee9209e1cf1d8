"""SPNet and SPNet-c (Xian et al., CVPR 2019): pixels meet fixed word vectors of the classes.

`frozen.py`: the projection to word space learns on cached pixel features, which stay as they are;
SPNet-c's gamma comes with it. `end_to_end.py` is the published form, in which the whole network learns
at three scales; maps of its scores are stored, and read as any other method's maps are.
"""
