// CUDA C on the host: what a kernel file sees. Every GPU thread is a fiber; shim.cpp runs them, check.cpp watches their memory.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <type_traits>
#include <utility>

#ifdef CU_CHECKED
#define NOSAN __attribute__((no_sanitize("thread", "bounds", "alignment")))
#else
#define NOSAN
#endif

struct uint3 { unsigned x, y, z; };
typedef uint3 dim3;

namespace cu {
enum Op { SHFL, BALLOT, ALL, ANY, SYNC, MATCH, FOLD };
typedef uint64_t (*Fold)(uint64_t, uint64_t);

struct Lane { uint3 tid; unsigned number, lane, warp; };  // what a kernel may see of its fiber

struct Kernel {
    void (*call)(void (*)(), void**);
    void (*function)();
    int most_threads;  // of __launch_bounds__, or 0
    char types[256];   // one code for each parameter: i4 u8 f4, *i4 for a pointer
};

extern Lane* cur;
extern uint3 bid, bdim, gdim;
extern char dyn[];  // dynamic shared memory: always here, so that the pointer is a constant

unsigned barrier(int line, bool vote);  // how many threads voted yes
uint64_t warp_op(Op op, unsigned mask, uint64_t value, int source, int line, Fold fold = nullptr);
void atomic(const volatile void* where, unsigned size, void* caller);
void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

template <class T> NOSAN inline uint64_t bits(T value) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a warp passes on 32 or 64 bits");
    uint64_t b = 0;
    memcpy(&b, &value, sizeof value);
    return b;
}
template <class T> NOSAN inline T from(uint64_t b) {
    T value;
    memcpy(&value, &b, sizeof value);
    return value;
}

template <class T> NOSAN void code(char*& at) {  // the type of a parameter, for launch.py
    typedef typename std::remove_cv<T>::type U;
    char kind = std::is_same<U, bool>::value       ? 'b'
                : std::is_floating_point<U>::value ? 'f'
                : std::is_signed<U>::value         ? 'i'
                : std::is_unsigned<U>::value       ? 'u'
                : std::is_void<U>::value           ? 'v'
                                                   : 'V';
    size_t size = 0;
    if constexpr (!std::is_void<U>::value) size = sizeof(U);
    *at++ = kind;
    if (size > 9) *at++ = '0' + size / 10 % 10;
    *at++ = '0' + size % 10;
}
template <class T> NOSAN void parameter(char*& at) {
    if constexpr (std::is_pointer<T>::value) {
        *at++ = '*';
        code<typename std::remove_pointer<T>::type>(at);
    } else {
        code<T>(at);
    }
    *at++ = ' ';
}
template <class... A, size_t... I> NOSAN void spread(void (*f)(A...), void** args, std::index_sequence<I...>) {
    f(*(typename std::remove_reference<A>::type*)args[I]...);
}
template <class... A> NOSAN void call(void (*f)(), void** args) {
    spread((void (*)(A...))f, args, std::index_sequence_for<A...>{});
}
template <class... A> NOSAN Kernel kernel(void (*f)(A...), int most_threads) {
    static_assert(sizeof...(A) < 60, "too many parameters for Kernel::types");
    Kernel k{&call<A...>, (void (*)())f, most_threads, {}};
    char* at = k.types;
    (parameter<A>(at), ...);
    return k;
}
}  // namespace cu

#define threadIdx (cu::cur->tid)
#define blockIdx cu::bid
#define blockDim cu::bdim
#define gridDim cu::gdim
#define warpSize 32

#include "dialect.h"
