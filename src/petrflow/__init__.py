"""One command from data sets to a trained PETRv2 detector."""

from petrflow.machine.mkl import use_avx2

use_avx2()
