// The logistic function and its integral.

// 1 / (1 + exp(-x)) without overflow for any x.
float logistic(float x) {
    precise float e = exp(-abs(x));
    precise float s = (x < 0.0 ? e : 1.0) / (1.0 + e);
    return s;
}

// ln(1 + exp(x)). What 1 + e loses of a small e is put back (Kahan's log1p).
float softplus(float x) {
    if (x > 20.0) {
        return x;
    }
    precise float e = exp(x);
    precise float one = 1.0 + e;
    precise float rest = one - 1.0;
    precise float y = rest == 0.0 ? e : log(one) * (e / rest);
    return y;
}
