// The kernels of semlink-nn on NVIDIA GPUs, compiled to PTX by build.rs.
#include "elementwise.cuh"
#include "reduce.cuh"
#include "optim.cuh"
#include "conv.cuh"
#include "conv_large.cuh"
