#include "multiply.h"

#include <stdio.h>

#include "flexcim_accelerator.h" /* generated beside the Verilog */
#include "platform.h"            /* your system's: read32, write32 and the DMA */

static uint32_t bus_read(void *context, uint32_t address) {
  (void)context;
  return read32(address);
}

static void bus_write(void *context, uint32_t address, uint32_t value) {
  (void)context;
  write32(address, value);
}

static const flexcim_accelerator_bus bus = {bus_read, bus_write, NULL};

uint32_t multiply(const struct job *job, int32_t *results) {
  flexcim_accelerator_write_program(&bus, 0, job->program, job->instructions);
  dma_send(DMA_WEIGHTS, job->weights, job->weight_bytes);
  dma_send(DMA_ACTIVATIONS, job->activations, job->activation_bytes);
  dma_receive(results, job->result_bytes);
  flexcim_accelerator_start(&bus, 0);
  uint32_t kind = flexcim_accelerator_wait(&bus);
  if (kind) {
    fprintf(stderr, "the accelerator stopped: %s\n", flexcim_accelerator_kind_name(kind));
    dma_stop();
    flexcim_accelerator_reset(&bus);
  } else {
    dma_wait();
  }
  return kind;
}
