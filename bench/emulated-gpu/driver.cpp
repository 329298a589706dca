// The driver's functions that programs built on candle call. Everything is done when a function returns: streams and events only exist. A
// module's code is not looked at: its kernels are those that were compiled for the host, by name.
#include <cuda.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "counts.h"
#include "launch.h"
#include "memory.h"

using namespace emulated;

struct CUctx_st {};
struct CUmod_st {};
struct CUstream_st {};
struct CUmemPoolHandle_st {};
struct CUevent_st {
    std::chrono::steady_clock::time_point recorded;
};
struct CUfunc_st {
    const Kernel* kernel;
    size_t most_dynamic_shared = STATIC_SHARED; // until cuFuncSetAttribute asks for more
};

// As many as a large host has. They share memory and context, which programs with one process for each GPU do not notice.
const int DEVICES = 8;

static CUctx_st context;
static CUmemPoolHandle_st pool;
static thread_local CUcontext current_context = nullptr;

static void* pointer(CUdeviceptr p) { return reinterpret_cast<void*>(p); }

#define CHECK(condition, error) \
    if (!(condition)) return error

// Devices.

CUresult cuInit(unsigned) { return CUDA_SUCCESS; }

CUresult cuDriverGetVersion(int* version) {
    *version = CUDA_VERSION;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int* count) {
    *count = DEVICES;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice* device, int ordinal) {
    CHECK(ordinal >= 0 && ordinal < DEVICES, CUDA_ERROR_INVALID_DEVICE);
    *device = ordinal;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char* name, int size, CUdevice) {
    snprintf(name, size, "emulated");
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice) {
    memset(uuid, 0, sizeof *uuid);
    return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem(size_t* bytes, CUdevice) {
    *bytes = TOTAL_MEMORY;
    return CUDA_SUCCESS;
}

// Those of an H100, as far as programs ask; 0 says no.
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
    switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = 9; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = 132; break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = WARP; break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = 1024; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: *value = STATIC_SHARED; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = MOST_SHARED; break;
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED: *value = 1; break;
    default: *value = 0;
    }
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetDefaultMemPool(CUmemoryPool* found, CUdevice) {
    *found = &pool;
    return CUDA_SUCCESS;
}

CUresult cuMemPoolSetAttribute(CUmemoryPool, CUmemPool_attribute, void*) { return CUDA_SUCCESS; }

// Contexts.

CUresult cuDevicePrimaryCtxRetain(CUcontext* retained, CUdevice) {
    *retained = &context;
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice) { return CUDA_SUCCESS; }

CUresult cuCtxGetCurrent(CUcontext* current) {
    *current = current_context;
    return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext current) {
    current_context = current;
    return CUDA_SUCCESS;
}

CUresult cuCtxSynchronize() { return CUDA_SUCCESS; }

// Streams and events.

CUresult cuStreamCreate(CUstream* stream, unsigned) {
    *stream = new CUstream_st;
    return CUDA_SUCCESS;
}

CUresult cuStreamDestroy(CUstream stream) {
    delete stream;
    return CUDA_SUCCESS;
}

CUresult cuStreamSynchronize(CUstream) { return CUDA_SUCCESS; }
CUresult cuStreamWaitEvent(CUstream, CUevent, unsigned) { return CUDA_SUCCESS; }

CUresult cuStreamIsCapturing(CUstream, CUstreamCaptureStatus* status) {
    *status = CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
}

CUresult cuEventCreate(CUevent* event, unsigned) {
    *event = new CUevent_st;
    return CUDA_SUCCESS;
}

CUresult cuEventDestroy(CUevent event) {
    delete event;
    return CUDA_SUCCESS;
}

CUresult cuEventRecord(CUevent event, CUstream) {
    event->recorded = std::chrono::steady_clock::now();
    return CUDA_SUCCESS;
}

CUresult cuEventQuery(CUevent) { return CUDA_SUCCESS; }
CUresult cuEventSynchronize(CUevent) { return CUDA_SUCCESS; }

CUresult cuEventElapsedTime(float* milliseconds, CUevent from, CUevent to) {
    *milliseconds = std::chrono::duration<float, std::milli>(to->recorded - from->recorded).count();
    return CUDA_SUCCESS;
}

// Memory.

CUresult cuMemAlloc(CUdeviceptr* at, size_t size) {
    CHECK(size > 0, CUDA_ERROR_INVALID_VALUE);
    void* found = allocate(size);
    CHECK(found, CUDA_ERROR_OUT_OF_MEMORY);
    *at = reinterpret_cast<CUdeviceptr>(found);
    return CUDA_SUCCESS;
}

// Unlike cuMemAlloc, gives no memory to who asks for none: candle uploads the dimensions of scalars.
CUresult cuMemAllocAsync(CUdeviceptr* at, size_t size, CUstream) {
    *at = 0;
    return size ? cuMemAlloc(at, size) : CUDA_SUCCESS;
}

CUresult cuMemFree(CUdeviceptr at) {
    CHECK(at == 0 || release(pointer(at)), CUDA_ERROR_INVALID_VALUE);
    return CUDA_SUCCESS;
}

CUresult cuMemFreeAsync(CUdeviceptr at, CUstream) { return cuMemFree(at); }

CUresult cuMemHostAlloc(void** at, size_t size, unsigned) {
    *at = malloc(size);
    return *at ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuMemFreeHost(void* at) {
    free(at);
    return CUDA_SUCCESS;
}

CUresult cuMemGetInfo(size_t* free, size_t* total) {
    *free = free_memory();
    *total = TOTAL_MEMORY;
    return CUDA_SUCCESS;
}

CUresult cuMemcpyHtoD(CUdeviceptr to, const void* from, size_t size) {
    CHECK(within(pointer(to), size), CUDA_ERROR_INVALID_VALUE);
    memcpy(pointer(to), from, size);
    return CUDA_SUCCESS;
}

CUresult cuMemcpyDtoH(void* to, CUdeviceptr from, size_t size) {
    CHECK(within(pointer(from), size), CUDA_ERROR_INVALID_VALUE);
    memcpy(to, pointer(from), size);
    return CUDA_SUCCESS;
}

CUresult cuMemcpyDtoD(CUdeviceptr to, CUdeviceptr from, size_t size) {
    CHECK(within(pointer(to), size) && within(pointer(from), size), CUDA_ERROR_INVALID_VALUE);
    memcpy(pointer(to), pointer(from), size);
    return CUDA_SUCCESS;
}

CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t size, CUstream) { return cuMemcpyHtoD(to, from, size); }
CUresult cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t size, CUstream) { return cuMemcpyDtoH(to, from, size); }
CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream) { return cuMemcpyDtoD(to, from, size); }

CUresult cuMemsetD8(CUdeviceptr to, unsigned char value, size_t size) {
    CHECK(within(pointer(to), size), CUDA_ERROR_INVALID_VALUE);
    emulated::count("memset");
    memset(pointer(to), value, size);
    return CUDA_SUCCESS;
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t size, CUstream) { return cuMemsetD8(to, value, size); }

// Modules and kernels.

CUresult cuModuleLoadData(CUmodule* module, const void*) {
    *module = new CUmod_st;
    return CUDA_SUCCESS;
}

CUresult cuModuleUnload(CUmodule module) {
    delete module;
    return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction* function, CUmodule, const char* name) {
    const Kernel* kernel = find_kernel(name);
    if (!kernel) fprintf(stderr, "emulated GPU: there is no kernel %s; see bench/emulated-gpu/Makefile\n", name);
    CHECK(kernel, CUDA_ERROR_NOT_FOUND);
    // Lives on with its module, like the driver's.
    *function = new CUfunc_st{kernel};
    return CUDA_SUCCESS;
}

CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction function) {
    switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = function->kernel->most_threads; break;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: *value = function->most_dynamic_shared; break;
    default: return CUDA_ERROR_NOT_SUPPORTED;
    }
    return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_SUCCESS;
    CHECK(value >= 0 && size_t(value) <= MOST_SHARED, CUDA_ERROR_INVALID_VALUE);
    function->most_dynamic_shared = value;
    return CUDA_SUCCESS;
}

CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                        unsigned block_z, unsigned shared, CUstream, void** arguments, void** extra) {
    CHECK(!extra, CUDA_ERROR_NOT_SUPPORTED);
    CHECK(grid_x && grid_y && grid_z && grid_x < 1u << 31 && grid_y < 1 << 16 && grid_z < 1 << 16, CUDA_ERROR_INVALID_VALUE);
    CHECK(block_x && block_y && block_z && block_x <= 1024 && block_y <= 1024 && block_z <= 64, CUDA_ERROR_INVALID_VALUE);
    CHECK(block_x * block_y * block_z <= function->kernel->most_threads, CUDA_ERROR_INVALID_VALUE);
    CHECK(shared <= function->most_dynamic_shared, CUDA_ERROR_INVALID_VALUE);
    run(*function->kernel, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared, arguments);
    return CUDA_SUCCESS;
}

// Errors.

CUresult cuGetErrorName(CUresult error, const char** name) {
    switch (error) {
    case CUDA_SUCCESS: *name = "CUDA_SUCCESS"; break;
    case CUDA_ERROR_INVALID_VALUE: *name = "CUDA_ERROR_INVALID_VALUE"; break;
    case CUDA_ERROR_OUT_OF_MEMORY: *name = "CUDA_ERROR_OUT_OF_MEMORY"; break;
    case CUDA_ERROR_INVALID_DEVICE: *name = "CUDA_ERROR_INVALID_DEVICE"; break;
    case CUDA_ERROR_NOT_FOUND: *name = "CUDA_ERROR_NOT_FOUND"; break;
    case CUDA_ERROR_NOT_SUPPORTED: *name = "CUDA_ERROR_NOT_SUPPORTED"; break;
    default: *name = "an error that the emulated GPU does not name"; return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult error, const char** text) { return cuGetErrorName(error, text); }
