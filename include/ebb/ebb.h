/// @file
/// Includes all public headers of ebb, and defines its version.
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

/// The major version number.
#define EBB_VERSION_MAJOR 0
/// The minor version number.
#define EBB_VERSION_MINOR 1
/// The patch version number.
#define EBB_VERSION_PATCH 0
