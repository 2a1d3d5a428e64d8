"""One command from data sets to a trained PETRv2 detector."""

from petrflow.machine.mkl import use_avx2
from petrflow.machine.paddle3d_ops import offer_paddle3d_operators

use_avx2()
offer_paddle3d_operators()
