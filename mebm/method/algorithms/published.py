"""M-EBM, M-JEM and JEM as published: each part of an iteration as mebm/method/iteration.py has it."""

from mebm.method.iteration import Algorithm

ALGORITHM = Algorithm()
