// What shim.cpp and check.cpp share.
#pragma once
#include <stdio.h>

#include <string>
#include <vector>

#include "shim.h"

namespace cu {
constexpr unsigned MOST_THREADS = 1024, MOST_WARPS = 32;
constexpr size_t STACK = 128 << 10, MOST_DYNAMIC = 227 << 10;

struct Buffer {  // an argument array, as launch.py passes it
    char* start;
    size_t size;
    unsigned item;
};
struct Setup {  // the launch, as launch.py passes it
    unsigned grid[3], block[3], dynamic, order, seed, preempt, seconds, buffers;
    const Buffer* buffer;
};
struct Range {
    const char *low, *high;
    bool has(const char* p, size_t n = 1) const { return p >= low && p + n <= high; }
};

extern char* stacks;
extern unsigned threads, block_number, epoch, warp_epoch[MOST_WARPS];  // epochs: how many barriers there were
extern Range image, statics;                                          // of this .so: all of it, and its __shared__ variables
extern unsigned dynamic_bytes;
extern std::string error;
unsigned random_below(unsigned n);
void pause();  // let another fiber run
void check_launch(const Setup& setup);
void check_block();
}  // namespace cu
