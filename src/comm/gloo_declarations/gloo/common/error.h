// See gloo/declarations.h.
#pragma once
#include <gloo/declarations.h>
