/* GCC 12's _tile_loadconfig tells the compiler that it reads 8 bytes of the 64, so llama.cpp's tile
 * shapes are never stored and its first product of AMX tiles faults. This one tells the truth. */
#if defined(__x86_64__) && defined(__AMX_TILE__)
#include <immintrin.h>
#undef _tile_loadconfig
#define _tile_loadconfig(config) \
    __asm__ volatile("ldtilecfg %0" : : "m"(*(const char(*)[64])(config)))
#endif
