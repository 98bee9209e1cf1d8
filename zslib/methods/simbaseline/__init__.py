"""SimBaseline: mask proposals, named by their queries and by a vision-language model (simbaseline.md).

Read `pixel_level`, `network`, `criterion`, `views`, `learning` and `fit` for the proposals, `extraction`
for what is kept of them, `fusion` and `segmenters` for how they become a label map, `self_training` for
the second round; `fcn` and `fcn_segmenters` for the same without masks, pixel by pixel.
"""
