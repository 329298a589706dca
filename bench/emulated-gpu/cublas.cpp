// Matrix products as cuBLAS computes them: columns one after another, sums in the type that is asked for, factors rounded to TF32 where allowed.
#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstring>
#include <vector>

#include "launch.h"
#include "tf32.h"

struct cublasContext {};

namespace {

// op(A): element (row, column), whatever way it lies in memory.
struct Factor {
    const void* at;
    cudaDataType_t type;
    bool transposed;
    int leading;
    long long stride; // from one matrix of a batch to the next, in elements
};

struct Result {
    void* at;
    cudaDataType_t type;
    int leading;
    long long stride;
};

double load(const void* at, cudaDataType_t type, size_t i) {
    switch (type) {
    case CUDA_R_32F: return static_cast<const float*>(at)[i];
    case CUDA_R_64F: return static_cast<const double*>(at)[i];
    case CUDA_R_16F: return __half2float(static_cast<const __half*>(at)[i]);
    default: return __bfloat162float(static_cast<const __nv_bfloat16*>(at)[i]);
    }
}

void store(void* at, cudaDataType_t type, size_t i, double v) {
    switch (type) {
    case CUDA_R_32F: static_cast<float*>(at)[i] = v; break;
    case CUDA_R_64F: static_cast<double*>(at)[i] = v; break;
    case CUDA_R_16F: static_cast<__half*>(at)[i] = __float2half(v); break;
    default: static_cast<__nv_bfloat16*>(at)[i] = __float2bfloat16(v);
    }
}

bool known(cudaDataType_t type) {
    return type == CUDA_R_32F || type == CUDA_R_64F || type == CUDA_R_16F || type == CUDA_R_16BF;
}

// op(A) [rows, columns], column by column.
template <class T> std::vector<T> gather(const Factor& f, int rows, int columns, long long batch, bool tf32) {
    std::vector<T> all(size_t(rows) * columns);
    size_t down = f.transposed ? f.leading : 1, right = f.transposed ? 1 : f.leading;
    for (int c = 0; c < columns; c++)
        for (int r = 0; r < rows; r++) {
            T v = load(f.at, f.type, batch * f.stride + r * down + c * right);
            if (tf32) {
                uint32_t bits = emulated::to_tf32(v);
                float rounded;
                memcpy(&rounded, &bits, sizeof rounded);
                v = rounded;
            }
            all[size_t(c) * rows + r] = v;
        }
    return all;
}

// C = alpha op(A) op(B) + beta C for each matrix of a batch.
template <class T> void gemm(int m, int n, int k, T alpha, Factor a, Factor b, T beta, Result c, int batches, bool tf32) {
    for (long long batch = 0; batch < batches; batch++) {
        auto left = gather<T>(a, m, k, batch, tf32), right = gather<T>(b, k, n, batch, tf32);
        emulated::parallel(n, [&](uint64_t column) {
            std::vector<T> sums(m, T(0));
            for (int p = 0; p < k; p++) {
                T factor = right[column * k + p];
                const T* from = &left[size_t(p) * m];
                for (int row = 0; row < m; row++) sums[row] += from[row] * factor;
            }
            size_t first = batch * c.stride + column * c.leading;
            // With beta 0, what was in C is not looked at: it may be NaN.
            for (int row = 0; row < m; row++)
                store(c.at, c.type, first + row, alpha * sums[row] + (beta == 0 ? 0 : beta * load(c.at, c.type, first + row)));
        });
    }
}

bool valid(int rows, int columns, const Factor& f) { return known(f.type) && f.leading >= (f.transposed ? columns : rows); }

cublasStatus_t run(int m, int n, int k, const void* alpha, Factor a, Factor b, const void* beta, Result c, int batches, cublasComputeType_t compute) {
    if (m < 0 || n < 0 || k < 0 || !valid(m, k, a) || !valid(k, n, b) || !known(c.type) || c.leading < m) return CUBLAS_STATUS_INVALID_VALUE;
    if (m == 0 || n == 0) return CUBLAS_STATUS_SUCCESS;
    switch (compute) {
    case CUBLAS_COMPUTE_64F:
        gemm<double>(m, n, k, *static_cast<const double*>(alpha), a, b, *static_cast<const double*>(beta), c, batches, false);
        return CUBLAS_STATUS_SUCCESS;
    case CUBLAS_COMPUTE_32F:
    case CUBLAS_COMPUTE_32F_FAST_TF32:
        gemm<float>(m, n, k, *static_cast<const float*>(alpha), a, b, *static_cast<const float*>(beta), c, batches,
                    compute == CUBLAS_COMPUTE_32F_FAST_TF32);
        return CUBLAS_STATUS_SUCCESS;
    default: return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}

Factor factor(const void* at, cudaDataType_t type, cublasOperation_t operation, int leading, long long stride = 0) {
    return {at, type, operation != CUBLAS_OP_N, leading, stride};
}

} // namespace

cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) {
    *handle = new cublasContext;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t, cudaStream_t) { return CUBLAS_STATUS_SUCCESS; }

cublasStatus_t cublasGemmEx(cublasHandle_t, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k, const void* alpha, const void* a,
                            cudaDataType_t a_type, int lda, const void* b, cudaDataType_t b_type, int ldb, const void* beta, void* c,
                            cudaDataType_t c_type, int ldc, cublasComputeType_t compute, cublasGemmAlgo_t) {
    return run(m, n, k, alpha, factor(a, a_type, op_a, lda), factor(b, b_type, op_b, ldb), beta, {c, c_type, ldc, 0}, 1, compute);
}

cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k, const void* alpha,
                                          const void* a, cudaDataType_t a_type, int lda, long long stride_a, const void* b, cudaDataType_t b_type,
                                          int ldb, long long stride_b, const void* beta, void* c, cudaDataType_t c_type, int ldc,
                                          long long stride_c, int batches, cublasComputeType_t compute, cublasGemmAlgo_t) {
    return run(m, n, k, alpha, factor(a, a_type, op_a, lda, stride_a), factor(b, b_type, op_b, ldb, stride_b), beta, {c, c_type, ldc, stride_c},
               batches, compute);
}

cublasStatus_t cublasDgemmStridedBatched(cublasHandle_t, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k, const double* alpha,
                                         const double* a, int lda, long long stride_a, const double* b, int ldb, long long stride_b,
                                         const double* beta, double* c, int ldc, long long stride_c, int batches) {
    return run(m, n, k, alpha, factor(a, CUDA_R_64F, op_a, lda, stride_a), factor(b, CUDA_R_64F, op_b, ldb, stride_b), beta,
               {c, CUDA_R_64F, ldc, stride_c}, batches, CUBLAS_COMPUTE_64F);
}
