// platform.h with simulated RTL: a register access lets the clock run until it is answered, and the DMA's words move
// meanwhile, as they do beside a processor.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "Vtop.h"
#include "platform.h"
#include "verilated.h"

namespace {

Vtop top;

struct Transfer {
    const char* from;
    char* to;
    size_t bytes;  // that are left
};

Transfer sent[2], received;
int idle_cycles = 0;

[[noreturn]] void stop(const char* why) {
    std::fprintf(stderr, "simulated platform: %s\n", why);
    std::exit(2);
}

template <class Data>
void offer(const Transfer& transfer, Data& data, uint8_t& valid, uint8_t& last) {
    valid = transfer.bytes > 0;
    if (!valid) return;
    if (transfer.bytes < sizeof data) stop("a buffer that is sent is no whole number of words");
    std::memcpy(&data, transfer.from, sizeof data);
    last = transfer.bytes == sizeof data;
}

template <class Data>
void sent_one(Transfer& transfer, const Data& data) {
    transfer.from += sizeof data;
    transfer.bytes -= sizeof data;
    idle_cycles = 0;
}

template <class Data, class Keep>
void receive_one(const Data& data, const Keep& keep) {
    size_t bytes = 0;
    for (size_t i = 0; i < sizeof keep; i++) bytes += __builtin_popcount(reinterpret_cast<const uint8_t*>(&keep)[i]);
    if (received.bytes < bytes) stop("the buffer for the results is too small");
    std::memcpy(received.to, &data, bytes);
    received.to += bytes;
    received.bytes -= bytes;
    idle_cycles = 0;
}

// All outputs come from registers: they say before the clock edge what moves at it.
void clock_edge() {
    if (++idle_cycles == 100'000) stop("no word has moved for 100000 cycles");
    offer(sent[DMA_WEIGHTS], top.s_axis_weights_tdata, top.s_axis_weights_tvalid, top.s_axis_weights_tlast);
    offer(sent[DMA_ACTIVATIONS], top.s_axis_activations_tdata, top.s_axis_activations_tvalid,
          top.s_axis_activations_tlast);
    top.m_axis_results_tready = received.bytes > 0;
    if (top.s_axis_weights_tvalid && top.s_axis_weights_tready) sent_one(sent[DMA_WEIGHTS], top.s_axis_weights_tdata);
    if (top.s_axis_activations_tvalid && top.s_axis_activations_tready)
        sent_one(sent[DMA_ACTIVATIONS], top.s_axis_activations_tdata);
    if (top.m_axis_results_tvalid && top.m_axis_results_tready)
        receive_one(top.m_axis_results_tdata, top.m_axis_results_tkeep);
    top.eval();
    top.clk = 1;
    top.eval();
    top.clk = 0;
}

struct Reset {
    Reset() {
        top.rst = 1;
        clock_edge();
        top.rst = 0;
        clock_edge();
    }
} reset;

// One side of a handshake is `mine`; returns after the clock edge at which both are 1.
void shake_hands(uint8_t& mine, const uint8_t& theirs) {
    mine = 1;
    while (!theirs) clock_edge();
    clock_edge();
    mine = 0;
}

}  // namespace

uint32_t read32(uint32_t address) {
    top.s_axil_araddr = address;
    shake_hands(top.s_axil_arvalid, top.s_axil_arready);
    while (!top.s_axil_rvalid) clock_edge();
    const uint32_t value = top.s_axil_rdata, response = top.s_axil_rresp;
    shake_hands(top.s_axil_rready, top.s_axil_rvalid);
    if (response) stop("a read was refused");
    return value;
}

void write32(uint32_t address, uint32_t value) {
    top.s_axil_awaddr = address;
    shake_hands(top.s_axil_awvalid, top.s_axil_awready);
    top.s_axil_wdata = value;
    top.s_axil_wstrb = 15;
    shake_hands(top.s_axil_wvalid, top.s_axil_wready);
    while (!top.s_axil_bvalid) clock_edge();
    const uint32_t response = top.s_axil_bresp;
    shake_hands(top.s_axil_bready, top.s_axil_bvalid);
    if (response) stop("a write was refused");
}

void dma_send(enum dma_stream stream, const void* data, size_t bytes) {
    sent[stream] = {static_cast<const char*>(data), nullptr, bytes};
}

void dma_receive(void* data, size_t bytes) { received = {nullptr, static_cast<char*>(data), bytes}; }

void dma_wait() {
    while (sent[DMA_WEIGHTS].bytes || sent[DMA_ACTIVATIONS].bytes || received.bytes) clock_edge();
}

void dma_stop() { sent[DMA_WEIGHTS] = sent[DMA_ACTIVATIONS] = received = {nullptr, nullptr, 0}; }
