// cap · tanh(value / cap) by an exponential that cannot overflow.

float soft_cap(float value, float cap) {
    float size = abs(value);
    precise float e = exp(-2.0 * size / cap);
    precise float y = cap * ((1.0 - e) / (1.0 + e));
    return value < 0.0 ? -y : y;
}
