"""CaGNet (Gu et al., ACM MM 2020): pixel features generated from a class and a pixel's context.

`networks.py`, `objectives.py`: the parts. `step1.py`: all networks learn on seen classes, the
contextual module among them. `maps.py`: with that module fixed, the feature maps are gated once and
for all. `step2.py`: the classifier learns on real features of seen and generated ones of all classes.

The backbone stays frozen and its features are cached (cagnet §11), so the classifier reads gated
maps as any other method reads maps. `end_to_end.py` is the published first step, in which the backbone
learns along; features are extracted anew after it. The paper's losses are the default;
`cagnet.official` has those of the released code, which differ (cagnet §10). `patches.py` and
`patch_steps.py` are the second version, whose classifier sees a pixel among its neighbours.
"""
