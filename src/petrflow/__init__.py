"""One command from data sets to a trained PETRv2 detector."""

from petrflow.blas import use_avx2

use_avx2()
