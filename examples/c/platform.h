/* What the example needs of the system around the accelerator. On a chip, read32 and write32 are accesses through a
   volatile pointer, and the others the driver of a DMA engine; simulated_platform.cpp does it all with simulated RTL. */
#ifndef PLATFORM_H
#define PLATFORM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The accelerator's registers, at byte addresses from its base: *(volatile uint32_t *)(BASE + address). */
uint32_t read32(uint32_t address);
void write32(uint32_t address, uint32_t value);

enum dma_stream { DMA_WEIGHTS, DMA_ACTIVATIONS };

/* Begins to send a buffer of whole words to a stream, and returns; the buffer must stay as it is meanwhile. */
void dma_send(enum dma_stream stream, const void *data, size_t bytes);

/* Begins to receive results into a buffer, and returns. */
void dma_receive(void *data, size_t bytes);

/* Waits until all transfers are complete. */
void dma_wait(void);

/* Ends all transfers, complete or not. */
void dma_stop(void);

#ifdef __cplusplus
}
#endif

#endif
