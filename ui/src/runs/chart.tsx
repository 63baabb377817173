// One quantity of several runs. Runs are told apart by color and by the letter at the line's end.

import type { VNode } from 'preact';
import { useState } from 'preact/hooks';
import { Frame, MARGIN, pathOf, useWidth } from '../chart/frame';
import { roomyScale, scaleOver, short, type Scale, type ScaleKind } from '../chart/scale';
import { pushApart } from './labels';
import { nearest, thin, type Axis, type Point } from './series';

const HEIGHT = 250;
const LETTER_GAP = 13;

export interface Line {
  /** The run's letter. */
  letter: string;
  /** The run's number among the colors. */
  color: number;
  points: Point[];
  /** The same before it was smoothed, drawn faintly behind. */
  raw?: Point[];
  /** Points themselves are drawn: a validation, of which there are few. */
  marked?: boolean;
}

interface Props {
  title: string;
  lines: Line[];
  axis: Axis;
  xKind: ScaleKind;
  yKind: ScaleKind;
}

export function RunChart(props: Props): VNode {
  const [place, width] = useWidth<HTMLDivElement>();
  return (
    <section class="card">
      <h2>{props.title}</h2>
      <div ref={place} class="figure">
        {width > 0 && <Drawing {...props} width={width} />}
      </div>
    </section>
  );
}

function Drawing({ title, lines, axis, xKind, yKind, width }: Props & { width: number }): VNode {
  const [pixel, setPixel] = useState<number>();
  const shown = lines.filter((line) => line.points.length > 0);
  const x = scaleOver(
    xKind,
    shown.flatMap(({ points }) => [points[0]?.[0] ?? NaN, points.at(-1)?.[0] ?? NaN]),
    MARGIN.left,
    width - MARGIN.right,
  );
  const y = roomyScale(
    yKind,
    shown.flatMap(({ points }) => points.map(([, value]) => value)),
    HEIGHT - MARGIN.bottom,
    MARGIN.top,
  );
  const at = pixel === undefined ? undefined : x.back(pixel);
  const last = shown.map(
    (line) => `${line.letter}${line.marked ? ' validation' : ''} ${short(line.points.at(-1)?.[1] ?? NaN)}`,
  );
  return (
    <>
      <Frame
        width={width}
        height={HEIGHT}
        x={x}
        y={y}
        xLabel={axis === 'step' ? 'step' : 'tokens'}
        yLabel=""
        onMove={setPixel}
        description={shown.length ? `${title}; last values: ${last.join(', ')}` : `${title}; no values yet`}
      >
        <svg
          x={MARGIN.left}
          y={MARGIN.top}
          width={width - MARGIN.left - MARGIN.right}
          height={HEIGHT - MARGIN.top - MARGIN.bottom}
          viewBox={`${MARGIN.left} ${MARGIN.top} ${width - MARGIN.left - MARGIN.right} ${HEIGHT - MARGIN.top - MARGIN.bottom}`}
        >
          {shown.map(
            (line) =>
              line.raw && (
                <path
                  key={line.letter}
                  class={`raw color-${line.color}`}
                  d={pathOf(thin(line.raw, width), x, y)}
                />
              ),
          )}
          {shown.map((line) => (
            <Curve key={`${line.letter}${line.marked}`} line={line} x={x} y={y} width={width} />
          ))}
        </svg>
        <Letters lines={shown} x={x} y={y} />
        {at !== undefined && (
          <line class="cross" x1={pixel} x2={pixel} y1={MARGIN.top} y2={HEIGHT - MARGIN.bottom} />
        )}
        {shown.length === 0 && (
          <text class="empty" x={width / 2} y={HEIGHT / 2} text-anchor="middle">
            no values yet
          </text>
        )}
      </Frame>
      <p class="reading" aria-hidden="true">
        {at === undefined ? 'latest' : `${axis} ${short(at, 4)}`}
        {shown.map((line) => {
          const point = at === undefined ? line.points.at(-1) : nearest(line.points, at);
          const name = `${line.letter}${line.marked ? ' val' : ''}`;
          return (
            <span key={name}>
              <i class={`dot color-${line.color}`} />
              {name} {short(point?.[1] ?? NaN, 4)}
            </span>
          );
        })}
      </p>
    </>
  );
}

function Curve({ line, x, y, width }: { line: Line; x: Scale; y: Scale; width: number }): VNode {
  return (
    <g class={`curve color-${line.color}`}>
      <path d={pathOf(thin(line.points, width), x, y)} class={line.marked ? 'thin' : ''} />
      {line.marked &&
        line.points.map(
          ([px, py]) => Number.isFinite(y.at(py)) && <circle key={px} cx={x.at(px)} cy={y.at(py)} r="2.5" />,
        )}
    </g>
  );
}

function Letters({ lines, x, y }: { lines: Line[]; x: Scale; y: Scale }): VNode {
  const ends = lines.flatMap((line) => {
    const end = line.points.findLast(([, value]) => Number.isFinite(y.at(value)));
    return end && !line.marked ? [{ line, x: x.at(end[0]) + 4, y: y.at(end[1]) + 4 }] : [];
  });
  const heights = pushApart(
    ends.map((end) => end.y),
    LETTER_GAP,
    MARGIN.top,
    HEIGHT - MARGIN.bottom + 4,
  );
  return (
    <g class="letters">
      {ends.map(({ line, x: left }, at) => (
        <text key={line.letter} class={`color-${line.color}`} x={left} y={heights[at]}>
          {line.letter}
        </text>
      ))}
    </g>
  );
}
