// Everything of ebb in one include, and its version.
#pragma once

#include "ebb/codec.h"
#include "ebb/compressed.h"
#include "ebb/metrics.h"
#include "ebb/options.h"
#include "ebb/scan.h"
#include "ebb/session.h"
#include "ebb/stats.h"
#include "ebb/status.h"
#include "ebb/store.h"
#include "ebb/verify.h"

#define EBB_VERSION_MAJOR 0
#define EBB_VERSION_MINOR 1
#define EBB_VERSION_PATCH 0
