"""One file per published method, read beside its paper from top to bottom: net, loss, fit."""
